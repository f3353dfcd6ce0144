//! The kernel programs of dz-agent.
//!
//! | program | type | what it does |
//! |---|---|---|
//! | `dz_tc_l3`, `dz_tc_eth` | SCHED_CLS, ingress | receive and answer on layer-3 and Ethernet devices |
//! | `dz_xdp` | XDP | the same on Ethernet devices, before the stack |
//! | `dz_gate_l3`, `dz_gate_eth` | SCHED_CLS, egress | keep packets from peers that are not Up |
//! | `dz_transmit` | SCHED_CLS, run by the agent's clock | build and send what nobody asked for |
//! | `dz_control` | SCHED_CLS, run by the agent | change a session on command |
//!
//! plus the timer callback in [`detect`]. The decisions are in dz-common; what is here is access to
//! maps and packets.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)] // aya-ebpf needs it too; hence RUSTC_BOOTSTRAP or nightly

mod atomic;
mod control;
mod count;
mod detect;
mod frame;
mod gate;
mod maps;
mod priority;
mod receive;
mod session;
mod skb;
mod tc;
mod too_big;
mod transmit;
mod verifier;
mod xdp;

/// No code path leads here: the panic handler exists because the compiler asks for one. A call to
/// it would be an endless loop, which the verifier refuses.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Timers, spin locks and redirection are helpers for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
