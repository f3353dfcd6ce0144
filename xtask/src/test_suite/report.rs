//! What the test programs' output says, summed up.

use std::process::ExitCode;

/// Kinds of links whose lack is no fault of a test's machine: only what no installation can change
/// about its kernel. What is skipped for that is still printed and counted, and runs in virtual
/// machines.
const RARE_LINKS: [&str; 4] = ["gre", "ip6gre", "vlan", "vrf"];

/// The results of all test programs.
#[derive(Debug, Default)]
pub(crate) struct Report {
    passed: usize,
    /// One line per failed test.
    failed: Vec<String>,
    /// One line per skipped test, with the reason.
    skipped: Vec<String>,
}

/// The results of one program, while it runs.
pub(crate) struct Results {
    program: String,
    has_result: bool,
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
    /// By the `test result:` lines.
    counted_failed: usize,
    counted_ignored: usize,
}

impl Report {
    /// Prints the sums, with a plain line of them at the end, and says whether that is a success.
    pub(crate) fn print(&self, deny_skips: bool) -> ExitCode {
        println!();
        for skipped in &self.skipped {
            let expected = if is_expected(skipped) {
                " (expected)"
            } else {
                ""
            };
            println!("SKIPPED {skipped}{expected}");
        }
        for failed in &self.failed {
            println!("FAILED {failed}");
        }
        let verdict = self.verdict(deny_skips);
        match verdict {
            Some(reason) => println!("not good: {reason}"),
            None => println!("good: {} tests ran", self.ran()),
        }
        println!("{}", self.sums());
        if verdict.is_some() {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }

    fn ran(&self) -> usize {
        self.passed + self.failed.len()
    }

    fn sums(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed,
            self.failed.len(),
            self.skipped.len()
        )
    }

    /// Why this is no success, if it is none.
    fn verdict(&self, deny_skips: bool) -> Option<&'static str> {
        if !self.failed.is_empty() {
            Some("tests failed")
        } else if self.ran() == 0 {
            Some("no test ran")
        } else if deny_skips && !self.skipped.iter().all(|skip| is_expected(skip)) {
            Some("tests were skipped that were asked for")
        } else {
            None
        }
    }
}

impl Results {
    /// Starts with a program.
    pub(crate) fn new(program: &str) -> Self {
        Self {
            program: program.to_owned(),
            has_result: false,
            passed: 0,
            failed: Vec::new(),
            skipped: Vec::new(),
            counted_failed: 0,
            counted_ignored: 0,
        }
    }

    /// Reads one line of the program's standard output.
    pub(crate) fn line(&mut self, line: &str) {
        if let Some(sums) = line.strip_prefix("test result: ") {
            self.has_result = true;
            self.passed += count(sums, "passed");
            self.counted_failed += count(sums, "failed");
            self.counted_ignored += count(sums, "ignored");
        } else if let Some(skipped) = line.strip_prefix("SKIPPED ") {
            self.skipped.push(skipped.to_owned());
        } else if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.trim_end().strip_suffix("... FAILED"))
        {
            self.failed.push(name.trim_end().to_owned());
        }
    }

    /// Adds the results when the program has ended: successfully, or how else.
    pub(crate) fn end(mut self, ended: Result<(), String>, report: &mut Report) {
        // The counts are what is true; names are what could be read beside other output.
        self.failed.resize(
            self.counted_failed,
            "(a test whose name could not be read)".to_owned(),
        );
        match ended {
            _ if !self.has_result => {
                let how = ended.err().unwrap_or_else(|| "successfully".to_owned());
                self.failed.push(format!("(ended without a result: {how})"));
            }
            Err(how) if self.failed.is_empty() => {
                self.failed.push(format!("(no test failed, but {how})"));
            }
            _ => {}
        }
        let named = self.skipped.len();
        self.skipped.resize(
            self.counted_ignored.max(named),
            "(a test that gives no reason)".to_owned(),
        );
        let with_program = |test: &String| format!("{}: {test}", self.program);
        report.passed += self.passed;
        report.failed.extend(self.failed.iter().map(with_program));
        report.skipped.extend(self.skipped.iter().map(with_program));
    }
}

/// Whether a test may be skipped even where skips are denied. `program: test: reason`.
fn is_expected(skipped: &str) -> bool {
    let Some((program, rest)) = skipped.split_once(": ") else {
        return false;
    };
    let reason = rest.split_once(": ").map_or("", |(_, reason)| reason);
    // Programs in virtual machines are named after the kernel there, which has them all.
    let on_this_machine = !program.starts_with(|c: char| c.is_ascii_digit());
    let lacks = |kind: &&str| reason == format!("this kernel cannot create links of kind {kind}");
    let too_old = reason.starts_with("kernel ") && reason.contains(" is older than ");
    too_old || (on_this_machine && RARE_LINKS.iter().any(lacks))
}

/// The number before a word, as in `ok. 5 passed; 0 failed`.
fn count(sums: &str, word: &str) -> usize {
    let words: Vec<&str> = sums.split([' ', ';']).collect();
    words
        .windows(2)
        .find(|pair| pair[1] == word)
        .and_then(|pair| pair[0].parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(output: &str, code: i32) -> Report {
        let mut report = Report::default();
        let mut results = Results::new("incident");
        output.lines().for_each(|line| results.line(line));
        let ended = (code == 0)
            .then_some(())
            .ok_or(format!("exit status {code}"));
        results.end(ended, &mut report);
        report
    }

    const SUMS: &str = "0 measured; 2 filtered out; finished in 0.00s";

    #[test]
    fn sums_up_passed_failed_and_skipped() {
        let report = report(
            &format!(
                "running 4 tests\ntest cut      ... FAILED\ntest freeze ... ok\n\n\
                 SKIPPED gre: this kernel has no GRE\n\
                 test result: FAILED. 1 passed; 1 failed; 1 ignored; {SUMS}"
            ),
            101,
        );
        assert_eq!(report.sums(), "1 passed, 1 failed, 1 skipped");
        assert_eq!(report.failed, ["incident: cut"]);
        assert_eq!(report.skipped, ["incident: gre: this kernel has no GRE"]);
        assert_eq!(report.verdict(false), Some("tests failed"));
    }

    #[test]
    fn results_of_several_crates_in_one_output_add_up() {
        let line = format!("test result: ok. 2 passed; 0 failed; 0 ignored; {SUMS}");
        let report = report(&format!("{line}\n{line}"), 0);
        assert_eq!(report.sums(), "4 passed, 0 failed, 0 skipped");
        assert_eq!(report.verdict(true), None);
    }

    #[test]
    fn a_program_that_dies_is_a_failure() {
        let dead = report("running 3 tests\ntest cut ... ok", 134);
        assert_eq!(dead.sums(), "0 passed, 1 failed, 0 skipped");
        let line = format!("test result: ok. 2 passed; 0 failed; 0 ignored; {SUMS}");
        let after = report(&line, 1);
        assert_eq!(after.sums(), "2 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn what_hangs_is_named_and_what_it_kept_from_running_has_not_passed() {
        // What the harness of the privileged tests prints last.
        let report = report(
            &format!(
                "running 5 tests\ntest quick ... ok\ntest cut ... FAILED\n\ntest hangs ... FAILED\n\n\
                 failures:\n\n---- hangs ----\nnot over after 300s, its deadline\n\n\
                 SKIPPED beside: cut short, because hangs hangs\n\n\n\
                 SKIPPED later: not begun, because hangs hangs\n\n\
                 test result: FAILED. 1 passed; 2 failed; 2 ignored; {SUMS}"
            ),
            101,
        );
        assert_eq!(report.sums(), "1 passed, 2 failed, 2 skipped");
        assert_eq!(report.failed, ["incident: cut", "incident: hangs"]);
        assert_eq!(
            report.skipped,
            [
                "incident: beside: cut short, because hangs hangs",
                "incident: later: not begun, because hangs hangs"
            ]
        );
        assert!(report.verdict(false).is_some());
    }

    #[test]
    fn skips_count_even_without_a_reason_and_are_denied_on_demand() {
        let line = format!("test result: ok. 2 passed; 0 failed; 1 ignored; {SUMS}");
        let report = report(&line, 0);
        assert_eq!(report.sums(), "2 passed, 0 failed, 1 skipped");
        assert_eq!(report.verdict(false), None);
        assert!(report.verdict(true).is_some());
    }

    #[test]
    fn what_the_kernel_lacks_may_be_skipped_but_is_counted() {
        let mut report = Report {
            passed: 1,
            ..Report::default()
        };
        let gre = "links::gre: this kernel cannot create links of kind gre";
        for expected in [
            format!("dz-tests net: {gre}"),
            "6.1 bystanders: a::b: kernel 6.1.0-56-cloud-amd64 is older than 6.6".to_owned(),
        ] {
            report.skipped.push(expected);
        }
        assert_eq!(report.verdict(true), None);
        assert_eq!(report.sums(), "1 passed, 0 failed, 2 skipped");
        for unexpected in [
            format!("6.1 net: {gre}"),
            "dz-tests net: a::b: this kernel cannot create links of kind veth".to_owned(),
            "dz-tests net: a::b: no root".to_owned(),
        ] {
            report.skipped.push(unexpected);
            assert!(report.verdict(true).is_some());
            report.skipped.pop();
        }
    }

    #[test]
    fn nothing_ran_is_no_success() {
        let line = format!("test result: ok. 0 passed; 0 failed; 0 ignored; {SUMS}");
        assert_eq!(report(&line, 0).verdict(false), Some("no test ran"));
        assert_eq!(Report::default().verdict(false), Some("no test ran"));
    }
}
