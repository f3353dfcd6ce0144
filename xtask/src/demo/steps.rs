//! The steps, in their order. Each waits until what it claims is so, and then shows it.

mod follow;
mod gate;
mod healthy;
mod incident;
mod setup;
mod trouble;

use super::parts::Demo;

/// A step.
pub(super) struct Step {
    /// One line, for people.
    pub(super) title: &'static str,
    /// Does and shows it, or says which claim does not hold.
    pub(super) run: fn(&mut Demo) -> anyhow::Result<()>,
}

/// Every step.
pub(super) const ALL: &[Step] = &[
    Step {
        title: "Two hosts and a wire",
        run: setup::hosts,
    },
    Step {
        title: "An agent on each host",
        run: setup::agents,
    },
    Step {
        title: "A session comes Up",
        run: setup::connect,
    },
    Step {
        title: "Routes have appeared",
        run: healthy::routes,
    },
    Step {
        title: "The kernel answers, and counts",
        run: healthy::counters,
    },
    Step {
        title: "The session, as the kernel has it",
        run: healthy::dump,
    },
    Step {
        title: "Metrics",
        run: healthy::metrics,
    },
    Step {
        title: "B's agent is frozen, and its session stays Up",
        run: trouble::freeze,
    },
    Step {
        title: "The wire is cut",
        run: trouble::cut,
    },
    Step {
        title: "Packets go around",
        run: gate::around,
    },
    Step {
        title: "The wire is mended",
        run: trouble::mend,
    },
    Step {
        title: "A disconnects",
        run: trouble::disconnect,
    },
    Step {
        title: "A comes back without an allocated address",
        run: incident::without_an_allocated_address,
    },
    Step {
        title: "Routes of another daemon are followed",
        run: follow::bgp_routes,
    },
    Step {
        title: "The agents stop",
        run: trouble::stop,
    },
];
