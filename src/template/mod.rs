//! Layered YAML and minijinja: (family, variables) → bytes.
