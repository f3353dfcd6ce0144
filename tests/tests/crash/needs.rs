//! What this machine must have for the tests of this group.

use dz_tests::harness::Requirement;

/// What every test here needs.
pub(crate) const NEEDS: [Requirement; 2] = [Requirement::Root, Requirement::Tun];
