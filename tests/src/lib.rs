//! Network-namespace harness and end-to-end tests.
