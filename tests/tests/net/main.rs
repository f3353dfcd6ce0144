//! The agent's netlink code against the kernel, in network namespaces.

mod coverage;
mod exclusive;
mod links;
mod monitor;
mod neighbours;
mod routes;

fn main() -> std::process::ExitCode {
    dz_tests::harness::run(
        [
            routes::tests(),
            links::tests(),
            monitor::tests(),
            neighbours::tests(),
            exclusive::tests(),
            coverage::tests(),
        ]
        .into_iter()
        .flatten()
        .collect(),
    )
}
