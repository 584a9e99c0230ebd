// SPDX-License-Identifier: LGPL-2.1-or-later
//! `--batch`: one guest description a line in, one compact JSON answer a line out, in order.

use std::io::{BufRead, Write};

use serde::Serialize;

use super::{Answer, Failure, GuestArguments};
use crate::guest::Guest;
use crate::source::description;

/// Answers every line. What one line fails of is its answer, under `error`, and does not stop the rest; the worst line
/// decides the exit code.
pub fn run<T: Serialize>(
    guests: &GuestArguments,
    out: &mut dyn Write,
    answer: impl Fn(&Guest) -> Result<(T, Answer), Failure>,
) -> Result<Answer, Failure> {
    let mut worst = 0;
    for line in guests.open()?.lines() {
        let line = line.map_err(|error| guests.unreadable(&error))?;
        if line.trim().is_empty() {
            continue;
        }
        let answered = description::parse(&line)
            .map_err(|error| (description::id(&line), Failure::Input(error.to_string())))
            .and_then(|guest| answer(&guest).map_err(|failure| (guest.id.clone(), failure)));
        match answered {
            Ok((answer, verdict)) => {
                worst = worst.max(u8::from(verdict == Answer::No));
                serde_json::to_writer(&mut *out, &answer).map_err(std::io::Error::from)?;
            }
            Err((id, failure)) => {
                worst = worst.max(failure.exit_code());
                let mut answer = failure.to_json();
                if let (Some(id), Some(answer)) = (id, answer.as_object_mut()) {
                    answer.insert("id".to_owned(), id);
                }
                serde_json::to_writer(&mut *out, &answer).map_err(std::io::Error::from)?;
            }
        }
        writeln!(out)?;
    }
    match worst {
        0 => Ok(Answer::Yes),
        1 => Ok(Answer::No),
        _ => Err(Failure::Input("a line was malformed: its answer says what is wrong".to_owned())),
    }
}
