//! What breaks a rule today. Every list may only become shorter: a test fails, too, if something
//! that stands here is in order by now. Whoever moves a file changes its name here.

/// Files that refer to each other in a circle: a list covers every circle among its files.
pub(super) const CYCLES: &[&[&str]] = &[];

/// Writers of maps, links and routes, and who calls them although it is not the hands.
pub(super) const WRITERS: &[(&str, &str)] = &[
    ("Pin::remove", "dz-agent/src/cli/purge.rs"),
    ("Routes::delete", "dz-agent/src/cli/purge.rs"),
    ("Stray::detach", "dz-agent/src/cli/purge.rs"),
    ("filters::detach", "dz-agent/src/cli/purge.rs"),
];

/// Who imports the command line although it is not `main.rs`.
pub(super) const COMMAND_LINE: &[&str] = &[];

/// Files that are too long, with the lines that they have without their unit tests.
pub(super) const LENGTH: &[(&str, usize)] = &[];

/// How many members `Engine` has, as long as it has too many.
pub(super) const ENGINE_MEMBERS: Option<usize> = None;
