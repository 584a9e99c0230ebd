// SPDX-License-Identifier: LGPL-2.1-or-later
//! `--batch`: one guest description a line in, one compact JSON answer a line out, in order.
//!
//! One thread reads, one for each processor answers, and the caller's writes. Chunks of lines go round the answering
//! threads in turn and are taken from them in turn, which keeps the order; the channels between are short, which keeps
//! the memory the same however long the input is.

use std::io::{BufRead, Write};
use std::num::NonZero;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use serde::Serialize;

use super::progress::Progress;
use super::{Answer, Failure, GuestArguments};
use crate::guest::Guest;
use crate::source::description;

/// How many lines, and how many bytes, make a chunk.
const CHUNK_LINES: usize = 32;
const CHUNK_BYTES: usize = 1 << 18;
/// How many chunks wait before a thread, and after it.
const WAITING: usize = 2;

/// The answers to a chunk of lines.
struct Answered {
    text: Vec<u8>,
    lines: u64,
    /// The highest exit code of its lines.
    worst: u8,
}

/// Answers every line. What one line fails of is its answer, under `error`, and does not stop the rest; the worst line
/// decides the exit code.
pub fn run<T: Serialize>(
    guests: &GuestArguments,
    out: &mut dyn Write,
    answer: impl Fn(&Guest) -> Result<(T, Answer), Failure> + Sync,
) -> Result<Answer, Failure> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let worst = thread::scope(|scope| {
        let mut to = Vec::new();
        let mut from = Vec::new();
        for _ in 0..threads {
            let (send_lines, lines) = sync_channel::<Vec<Vec<u8>>>(WAITING);
            let (send_answers, answers) = sync_channel(WAITING);
            let answer = &answer;
            scope.spawn(move || answer_chunks(&lines, &send_answers, answer));
            to.push(send_lines);
            from.push(answers);
        }
        let reader = scope.spawn(move || read_chunks(guests, &to));
        let written = write_answers(out, from);
        // The answers before an unreadable line have been written, as if it stood alone.
        let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let worst = written?;
        read.map(|()| worst)
    })?;
    match worst {
        0 => Ok(Answer::Yes),
        1 => Ok(Answer::No),
        _ => Err(Failure::Answered("a line was malformed: its answer says what is wrong".to_owned())),
    }
}

/// Hands the lines out; stops early where nobody wants them any more.
fn read_chunks(guests: &GuestArguments, to: &[SyncSender<Vec<Vec<u8>>>]) -> Result<(), Failure> {
    let mut next = to.iter().cycle();
    let mut send = move |chunk| next.next().is_some_and(|to| to.send(chunk).is_ok());
    let mut chunk = Vec::new();
    let mut bytes = 0_usize;
    for line in guests.open()?.split(b'\n') {
        let line = match line {
            Ok(line) => line,
            Err(error) => {
                send(chunk);
                return Err(guests.unreadable(&error));
            }
        };
        if line.trim_ascii().is_empty() {
            continue;
        }
        bytes = bytes.saturating_add(line.len());
        chunk.push(line);
        if chunk.len() >= CHUNK_LINES || bytes >= CHUNK_BYTES {
            bytes = 0;
            if !send(std::mem::take(&mut chunk)) {
                return Ok(());
            }
        }
    }
    send(chunk);
    Ok(())
}

/// What each answering thread does.
fn answer_chunks<T: Serialize>(
    lines: &Receiver<Vec<Vec<u8>>>,
    to: &SyncSender<Result<Answered, Failure>>,
    answer: &(impl Fn(&Guest) -> Result<(T, Answer), Failure> + Sync),
) {
    for chunk in lines {
        if to.send(answer_lines(&chunk, answer)).is_err() {
            return;
        }
    }
}

fn answer_lines<T: Serialize>(
    chunk: &[Vec<u8>],
    answer: &impl Fn(&Guest) -> Result<(T, Answer), Failure>,
) -> Result<Answered, Failure> {
    let mut answered = Answered { text: Vec::new(), lines: 0, worst: 0 };
    for line in chunk {
        let wrong = |error: &dyn std::fmt::Display| {
            (description::id(&String::from_utf8_lossy(line)), Failure::Input(error.to_string()))
        };
        let result = std::str::from_utf8(line)
            .map_err(|error| wrong(&error))
            .and_then(|line| description::parse(line).map_err(|error| wrong(&error)))
            .and_then(|guest| answer(&guest).map_err(|failure| (guest.id.clone(), failure)));
        let text = &mut answered.text;
        let code = match result {
            Ok((answer, verdict)) => {
                serde_json::to_writer(text, &answer).map_err(std::io::Error::from)?;
                u8::from(verdict == Answer::No)
            }
            Err((id, failure)) => {
                let mut answer = failure.to_json();
                if let (Some(id), Some(answer)) = (id, answer.as_object_mut()) {
                    answer.insert("id".to_owned(), id);
                }
                serde_json::to_writer(text, &answer).map_err(std::io::Error::from)?;
                failure.exit_code()
            }
        };
        answered.text.push(b'\n');
        answered.worst = answered.worst.max(code);
        answered.lines = answered.lines.saturating_add(1);
    }
    Ok(answered)
}

/// Writes the chunks in the order in which they were handed out. That the threads' channels are dropped here, whatever
/// happens, is what ends the threads.
fn write_answers(out: &mut dyn Write, from: Vec<Receiver<Result<Answered, Failure>>>) -> Result<u8, Failure> {
    let mut worst = 0;
    let mut progress = Progress::of("guests");
    for answers in from.iter().cycle() {
        // The first thread that has no more is the one whose turn the end of the input was.
        let Ok(answered) = answers.recv() else { break };
        let answered = answered?;
        out.write_all(&answered.text)?;
        worst = worst.max(answered.worst);
        progress.add(answered.lines);
    }
    Ok(worst)
}
