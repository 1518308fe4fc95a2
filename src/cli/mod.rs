//! One file per subcommand: reads arguments, calls the library or the API, prints.
