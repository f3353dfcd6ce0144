//! What breaks a rule today. Every list may only become shorter: a test fails, too, if something
//! that stands here is in order by now. Whoever moves a file changes its name here.

/// Files that refer to each other in a circle: a list covers every circle among its files.
pub(super) const CYCLES: &[&[&str]] = &[&[
    "dz-agent/src/engine/disconnect.rs",
    "dz-agent/src/engine/check.rs",
    "dz-agent/src/engine/choose.rs",
    "dz-agent/src/engine/close.rs",
    "dz-agent/src/engine/configured.rs",
    "dz-agent/src/engine/connect.rs",
    "dz-agent/src/engine/diverted.rs",
    "dz-agent/src/engine/farewell.rs",
    "dz-agent/src/engine/followed.rs",
    "dz-agent/src/engine/interfaces.rs",
    "dz-agent/src/engine/locals.rs",
    "dz-agent/src/engine/parts.rs",
    "dz-agent/src/engine/resolve.rs",
    "dz-agent/src/engine/routes.rs",
    "dz-agent/src/engine/sources.rs",
    "dz-agent/src/engine/surroundings.rs",
    "dz-agent/src/engine/transmit.rs",
]];

/// Writers of maps, links and routes, and who calls them although it is not the hands.
pub(super) const WRITERS: &[(&str, &str)] = &[
    ("Attachment::detach", "dz-agent/src/engine/holding.rs"),
    ("Datapath::attach", "dz-agent/src/engine/interfaces.rs"),
    ("Datapath::control", "dz-agent/src/engine/close.rs"),
    ("Datapath::control", "dz-agent/src/engine/diverted.rs"),
    ("Datapath::load", "dz-agent/src/engine/run.rs"),
    ("Datapath::transmit", "dz-agent/src/engine/farewell.rs"),
    ("Datapath::transmit", "dz-agent/src/engine/transmit.rs"),
    ("Maps::beat", "dz-agent/src/engine/run.rs"),
    ("Maps::confine", "dz-agent/src/engine/surroundings.rs"),
    ("Maps::delete_local", "dz-agent/src/engine/locals.rs"),
    ("Maps::delete_session", "dz-agent/src/engine/close.rs"),
    ("Maps::insert_session", "dz-agent/src/engine/connect.rs"),
    ("Maps::prepare_slot", "dz-agent/src/engine/connect.rs"),
    ("Maps::release", "dz-agent/src/engine/surroundings.rs"),
    ("Maps::set_local", "dz-agent/src/engine/locals.rs"),
    ("Maps::set_peer", "dz-agent/src/engine/connect.rs"),
    ("Maps::set_peer", "dz-agent/src/engine/sources.rs"),
    ("Pin::remove", "dz-agent/src/engine/stop.rs"),
    ("Pin::remove", "dz-agent/src/cli/purge.rs"),
    ("Routes::add", "dz-agent/src/engine/routes.rs"),
    ("Routes::delete", "dz-agent/src/engine/routes.rs"),
    ("Routes::delete", "dz-agent/src/cli/purge.rs"),
    ("filters::detach", "dz-agent/src/cli/purge.rs"),
    ("upgrade::take_over", "dz-agent/src/engine/run.rs"),
];

/// Who imports the command line although it is not `main.rs`.
pub(super) const COMMAND_LINE: &[&str] = &[];

/// Files that are too long, with the lines that they have without their unit tests.
pub(super) const LENGTH: &[(&str, usize)] = &[
    ("dz-common/tests/suite/ingress.rs", 426),
    ("dz-common/tests/suite/transitions.rs", 422),
    ("tests/tests/crash/round.rs", 418),
    ("tests/tests/net/routes.rs", 435),
];

/// How many members `Engine` has, as long as it has too many.
pub(super) const ENGINE_MEMBERS: Option<usize> = Some(19);
