//! Build, demo, test and conformance commands: `cargo xtask --help`.

mod conform;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(command) if command == "conform" => {
            conform::run(&args.map(Into::into).collect::<Vec<_>>())
        }
        _ => anyhow::bail!("usage: cargo xtask conform FILE..."),
    }
}
