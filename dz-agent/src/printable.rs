//! Text for terminals and logs: characters that would be acted on are shown instead. Names of interfaces and
//! processes, paths and errors may hold whatever others have put there.

use std::borrow::Cow;
use std::fmt::Write;

/// Shows the control characters of a text, but for line breaks, as JSON writes them: `\u001b`.
pub fn printable(text: &str) -> Cow<'_, str> {
    shown(text, |character| character != '\n' && acts(character))
}

/// Shows the control characters of a text that is to be one line.
pub fn one_line(text: &str) -> Cow<'_, str> {
    shown(text, acts)
}

/// Says whether a terminal acts on a character: controls, and those that turn the direction of writing around.
fn acts(character: char) -> bool {
    character.is_control() || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn shown(text: &str, hidden: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&hidden) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if hidden(character) {
            // A string takes everything.
            let _ = write!(shown, "\\u{:04x}", u32::from(character));
        } else {
            shown.push(character);
        }
    }
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_act_on_is_shown() {
        let bad = "a\u{1b}[2J\u{9b}2J\u{7f}\r\u{202e}\nb";
        let shown = r"a\u001b[2J\u009b2J\u007f\u000d\u202e";
        assert_eq!(printable(bad), format!("{shown}\nb"));
        assert_eq!(one_line(bad), format!(r"{shown}\u000ab"));
    }

    #[test]
    fn json_stays_the_same() {
        let name = "a\u{9b}b\u{7f}";
        let json = serde_json::to_string(name).unwrap();
        let read: String = serde_json::from_str(&printable(&json)).unwrap();
        assert_eq!(read, name);
    }

    #[test]
    fn other_text_is_not_copied() {
        let borrowed = |text| matches!(printable(text), Cow::Borrowed(_));
        assert!(borrowed("täble\n row") && !borrowed("\u{1b}"));
    }
}
