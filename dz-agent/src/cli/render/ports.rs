//! Writes the notes below the table of `status`: how programs are attached and whether they still are, and
//! which ports are ours.

use std::fmt::Write;

use crate::api::StatusJson;

/// Writes in one line each why the programs of an interface are attached as they are, why its liveness
/// port is not ours, and where metrics are served.
pub(super) fn notes(status: &StatusJson) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    for interface in &status.interfaces {
        let name = &interface.name;
        if let (Some(mode), Some(why)) = (&interface.attach, &interface.attach_reason) {
            let _ = writeln!(text, "{name}: {mode}: {why}");
        }
        for program in &interface.programs {
            let what = match program.hook.as_str() {
                "gate" => "gate",
                _ => "program at ingress",
            };
            if let Some(why) = &program.error {
                let _ = writeln!(text, "{name}: the {what} is not there: {why}");
            }
            if program.before > 0 {
                let others = program.before;
                let _ = writeln!(
                    text,
                    "{name}: programs of others that run before the {what}: {others}; what they do with \
                     packets cannot be known"
                );
            }
        }
        if let Some(why) = &interface.port_guard_error {
            let _ = writeln!(text, "{name}: served without the port guard: {why}");
        }
        if interface.port_guard.as_deref() == Some("off") {
            let port = status.port;
            let _ = writeln!(text, "{name}: UDP port {port} is left to others");
        }
    }
    let _ = match (&status.metrics, &status.metrics_error) {
        (Some(socket), _) if socket.starts_with("unix:") => writeln!(text, "metrics: {socket}"),
        (Some(address), _) => writeln!(text, "metrics: http://{address}/metrics"),
        (None, Some(why)) => writeln!(text, "metrics: not served: {why}"),
        (None, None) => writeln!(text, "metrics: off (the agent's Unix socket has them)"),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn what_is_not_as_usual_is_said() {
        let mut status = StatusJson::from(&fixture::snapshot());
        let usual = "doublezero0: tc: as asked for with --attach\n";
        let missing = "doublezero0: served without the port guard: UDP port 44880 is taken\n";
        let metrics = "metrics: http://127.0.0.1:44881/metrics\n";
        let before = "doublezero0: programs of others that run before the gate: 2; what they do with packets cannot \
                      be known\n";
        assert_eq!(notes(&status), format!("{usual}{before}{missing}{metrics}"));
        status.interfaces[0].programs[1].before = 0;
        status.interfaces[0].programs[0].error = Some("no room".to_owned());
        let gone = "doublezero0: the program at ingress is not there: no room\n";
        assert_eq!(notes(&status), format!("{usual}{gone}{missing}{metrics}"));
        status.interfaces[0].programs.clear();
        status.interfaces[0].port_guard_error = None;
        status.interfaces[0].port_guard = Some("off".to_owned());
        (status.metrics, status.metrics_error) = (None, Some("taken".to_owned()));
        let off = "doublezero0: UDP port 44880 is left to others\n";
        let metrics = "metrics: not served: taken\n";
        assert_eq!(notes(&status), format!("{usual}{off}{metrics}"));
    }
}
