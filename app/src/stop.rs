//! Ctrl-C: the running statement ends where it can be taken up again; a second one ends the program.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use rusqlite::InterruptHandle;

/// The status of a program that Ctrl-C ended.
pub const STATUS: u8 = 130;

static ASKED: AtomicBool = AtomicBool::new(false);
static RUNNING: OnceLock<Mutex<InterruptHandle>> = OnceLock::new();

/// Listens from now on.
pub fn listen() -> Result<(), ctrlc::Error> {
    ctrlc::set_handler(|| {
        let again = ASKED.swap(true, Ordering::AcqRel);
        match RUNNING.get() {
            Some(_) if !again => interrupt(),
            _ => std::process::exit(STATUS.into()),
        }
    })
}

/// Ends the running statement, if somebody wants it; one that begins afterwards must be told anew.
pub fn interrupt() {
    if let (true, Some(running)) = (asked(), RUNNING.get()) {
        running.lock().unwrap_or_else(PoisonError::into_inner).interrupt();
    }
}

/// Has Ctrl-C interrupt this connection's statement instead of ending the program at once.
pub fn interrupts(connection: InterruptHandle) {
    RUNNING.get_or_init(|| Mutex::new(connection));
}

/// Whether somebody wants it to end.
pub fn asked() -> bool {
    ASKED.load(Ordering::Acquire)
}
