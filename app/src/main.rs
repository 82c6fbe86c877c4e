//! `dualpath`: a folder's pictures, found by sentences, without a prompt for SQL.

// Before rusqlite: sqlite3ext-sys, deep inside, brings an old SQLite that nobody calls, and the linker takes
// the copy that it is given first. `dualpath::register()` sees to it that it is the right one.
extern crate dualpath;

mod command;
mod place;
mod files;
mod stop;
mod index;
mod album;
mod query;
mod search;
mod sheet;
mod picture;
mod gallery;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use command::{Cli, Verb};

const NOTHING: u8 = 1;
const ERROR: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli.verb) {
        Ok(code) => code,
        // Who reads our answers has read enough.
        Err(err) if is_closed_pipe(&err) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("dualpath: {}", words(&err));
            ExitCode::from(ERROR)
        }
    }
}

fn run(verb: &Verb) -> Result<ExitCode> {
    dualpath::register()?;
    stop::listen()?;
    Ok(match verb {
        Verb::Index(command) => match index::index(command)? {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(stop::STATUS),
        },
        Verb::Search(command) => match search::search(command)? {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(NOTHING),
        },
        Verb::Gallery(command) => {
            gallery::gallery(command)?;
            ExitCode::SUCCESS
        }
    })
}

/// What went wrong, from the outside in; SQLite's words are not followed by its number for them.
fn words(err: &anyhow::Error) -> String {
    let mut words = Vec::new();
    for cause in err.chain() {
        words.push(cause.to_string());
        if cause.is::<rusqlite::Error>() {
            break;
        }
    }
    words.join(": ")
}

fn is_closed_pipe(err: &anyhow::Error) -> bool {
    let io = err.downcast_ref::<std::io::Error>();
    io.is_some_and(|it| it.kind() == std::io::ErrorKind::BrokenPipe)
}
