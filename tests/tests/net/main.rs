//! The agent's netlink code against the kernel, in network namespaces.

mod links;
mod routes;

fn main() -> std::process::ExitCode {
    dz_tests::harness::run(
        [routes::tests(), links::tests()]
            .into_iter()
            .flatten()
            .collect(),
    )
}
