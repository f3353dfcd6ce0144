use dz_tests::harness::Requirement::{self, LinkKind, Root, Tun};

/// What all tests of this group need.
pub(crate) const NEEDS: [Requirement; 3] = [Root, Tun, LinkKind("veth")];
