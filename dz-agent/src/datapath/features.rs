//! The features that the kernel must have, each found out by trying it: what a kernel's version says depends on who built
//! it.

use std::error::Error;

use aya::maps::MapType;
use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported};

use super::causes::{chain, os_error};
use super::hook::Hook;
use super::raw::query;
use crate::error::{ExitCode, Failure};

/// A feature that the agent needs.
#[derive(Clone, Copy, Debug)]
enum Feature {
    Program(ProgramType, &'static str),
    Map(MapType, &'static str),
    /// A helper that programs of TC call.
    Helper(BpfHelper, &'static str),
    /// A helper that programs of XDP call.
    XdpHelper(BpfHelper, &'static str),
}

/// Those of every kernel program of ours, whether it will run here or not.
const FEATURES: [Feature; 19] = [
    Feature::Program(ProgramType::SchedClassifier, "TC classifier programs"),
    Feature::Program(ProgramType::Xdp, "XDP programs"),
    Feature::Map(MapType::Hash, "BPF hash maps"),
    Feature::Map(MapType::Array, "BPF array maps"),
    Feature::Map(MapType::PerCpuArray, "BPF per-CPU array maps"),
    Feature::Map(MapType::RingBuf, "BPF ring buffers"),
    Feature::Helper(BpfHelper::BPF_FUNC_ringbuf_output, "bpf_ringbuf_output"),
    Feature::Helper(BpfHelper::BPF_FUNC_spin_lock, "bpf_spin_lock"),
    Feature::Helper(BpfHelper::BPF_FUNC_timer_init, "bpf_timer_init"),
    Feature::Helper(
        BpfHelper::BPF_FUNC_timer_set_callback,
        "bpf_timer_set_callback",
    ),
    Feature::Helper(BpfHelper::BPF_FUNC_timer_start, "bpf_timer_start"),
    Feature::Helper(BpfHelper::BPF_FUNC_loop, "bpf_loop"),
    Feature::Helper(BpfHelper::BPF_FUNC_redirect_neigh, "bpf_redirect_neigh"),
    Feature::Helper(BpfHelper::BPF_FUNC_clone_redirect, "bpf_clone_redirect"),
    Feature::Helper(BpfHelper::BPF_FUNC_skb_change_head, "bpf_skb_change_head"),
    Feature::Helper(BpfHelper::BPF_FUNC_skb_change_tail, "bpf_skb_change_tail"),
    Feature::Helper(BpfHelper::BPF_FUNC_l4_csum_replace, "bpf_l4_csum_replace"),
    Feature::XdpHelper(BpfHelper::BPF_FUNC_xdp_adjust_tail, "bpf_xdp_adjust_tail"),
    Feature::XdpHelper(BpfHelper::BPF_FUNC_timer_start, "bpf_timer_start in XDP"),
];

type Answer = Result<bool, Box<dyn Error>>;

impl Feature {
    const fn name(self) -> &'static str {
        match self {
            Self::Program(_, name)
            | Self::Map(_, name)
            | Self::Helper(_, name)
            | Self::XdpHelper(_, name) => name,
        }
    }

    /// Tries it.
    fn is_there(self) -> Answer {
        Ok(match self {
            Self::Program(kind, _) => is_program_supported(kind)?,
            Self::Map(kind, _) => is_map_supported(kind)?,
            Self::Helper(helper, _) => is_helper_supported(ProgramType::SchedClassifier, helper)?,
            Self::XdpHelper(helper, _) => is_helper_supported(ProgramType::Xdp, helper)?,
        })
    }
}

/// Checks that the kernel, which is of this release, has everything.
///
/// # Errors
/// [`ExitCode::Kernel`], naming everything that is missing, or what could not be tried.
pub(super) fn check(release: &str) -> Result<(), Failure> {
    check_by(release, Feature::is_there)
}

fn check_by(release: &str, is_there: impl Fn(Feature) -> Answer) -> Result<(), Failure> {
    let mut missing = Vec::new();
    for feature in FEATURES {
        let name = feature.name();
        match is_there(feature) {
            Ok(true) => {}
            Ok(false) => missing.push(name),
            Err(error) if os_error(&*error) == Some(libc::ENOSYS) => {
                missing = vec!["bpf(2)"];
                break;
            }
            // An answer that the kernel could not give does not mean no.
            Err(error) => return Err(cannot_try(name, &chain(&*error))),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        ExitCode::Kernel,
        format!(
            "kernel {release} lacks {}: use Linux 6.1 or newer with CONFIG_BPF_SYSCALL, CONFIG_NET_CLS_BPF \
             and CONFIG_BPF_JIT",
            missing.join(", ")
        ),
    ))
}

/// Says whether TC has links (TCX, since Linux 6.6).
///
/// # Errors
/// [`ExitCode::Kernel`]: that could not be tried.
pub(super) fn has_tcx() -> Result<bool, Failure> {
    /// Number of the loopback device in every network namespace.
    const LOOPBACK: u32 = 1;
    let asked = query::tcx(LOOPBACK, Hook::Egress).map_err(|error| (error.raw_os_error(), error));
    match asked {
        Ok(_) | Err((Some(libc::ENODEV), _)) => Ok(true),
        Err((Some(libc::EINVAL), _)) => Ok(false),
        Err((_, error)) => Err(cannot_try("TCX", &error.to_string())),
    }
}

fn cannot_try(name: &str, error: &str) -> Failure {
    Failure::new(ExitCode::Kernel, format!("trying {name}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn each_feature_is_missed_by_its_name() {
        assert!(check_by("6.1.0", |_| Ok(true)).is_ok());
        for lacking in FEATURES {
            let lacks = |feature: Feature| Ok(feature.name() != lacking.name());
            let failure = check_by("6.1.0", lacks).unwrap_err();
            assert_eq!(failure.code, ExitCode::Kernel);
            let words = format!("kernel 6.1.0 lacks {}: use", lacking.name());
            assert!(failure.to_string().starts_with(&words), "{failure}");
        }
    }

    #[test]
    fn what_cannot_be_tried_is_not_missing() {
        let answer = |errno| move |_| Err(Box::from(io::Error::from_raw_os_error(errno)));
        for errno in [libc::ENOMEM, libc::EPERM, libc::EMFILE] {
            let failure = check_by("6.1.0", answer(errno)).unwrap_err();
            let words = failure.to_string();
            assert!(
                words.starts_with("trying TC classifier programs: "),
                "{words}"
            );
        }
        let failure = check_by("6.1.0", answer(libc::ENOSYS)).unwrap_err();
        assert!(
            failure.to_string().contains("lacks bpf(2): use"),
            "{failure}"
        );
    }
}
