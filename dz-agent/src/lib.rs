//! dz-agent: see README.md.
