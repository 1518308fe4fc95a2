//! The YAML file as a whole: defaults, secrets, errors with line numbers.
