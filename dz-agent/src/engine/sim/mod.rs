//! The simulator: several machines in memory, each with the real engine, over links that do what links
//! do, while things happen to them. A seed is a story; the same seed is the same story, step by step.
//!
//! | part | is |
//! |---|---|
//! | [`machine`] | the kernel of one node: its interfaces and addresses, and what comes and goes there |
//! | [`agent`] | one agent process: the engine, given its turns as the loop gives them |
//! | [`daemon`], [`routing`] | the other routing daemon of a node, whose routes its agent follows |
//! | [`client`] | a node with the deployed client, by whose rules half of all peers live |
//! | [`beside`], [`segment`], [`neighbours`] | what lies beside served interfaces that are Ethernet |
//! | [`wire`] | what carries packets: delay, loss, doubling, disorder, partitions |
//! | [`story`] | what happens, drawn from the seed, and how a story that fails is made shorter |
//! | [`node`] | one node: its machine, its agent, its operator |
//! | [`world`], [`happen`], [`steps`] | all of it, what happens to it, step by step |
//! | [`tell`] | telling a story, and making one that fails shorter |
//! | [`check`] | what must hold after every step |
//! | [`seen`], [`wrong`] | what may be other than it should be for a while |
//! | [`agreement`] | what must hold once everything is well again |

mod agent;
mod agreement;
mod beside;
mod check;
mod client;
mod daemon;
mod finding;
mod happen;
mod machine;
mod neighbours;
mod node;
mod routing;
mod seen;
mod segment;
mod steps;
mod story;
mod tell;
mod wire;
mod world;
mod wrong;

pub use finding::{Finding, Report, told};
pub use story::Story;
pub use tell::{shrink, tell};
