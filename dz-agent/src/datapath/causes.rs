//! Reads the causes of an error.

use std::error::Error;
use std::io;

/// Writes an error and its causes, one behind the other.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Finds the number of the system's error that is the cause of another, if there is one.
pub(super) fn os_error(error: &(dyn Error + 'static)) -> Option<libc::c_int> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return error.raw_os_error();
        }
        cause = error.source();
    }
    None
}
