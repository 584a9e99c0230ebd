// SPDX-License-Identifier: LGPL-2.1-or-later
//! A socket in front of the daemon's: counts requests, and does something nasty at one of them.

use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::wire::{ERROR, Message};

/// What becomes of a request.
pub enum Action {
    /// It reaches the daemon, and its answer the client.
    Pass,
    /// The process with this number is killed before the daemon gets the request, and the connection ends.
    Kill(u32),
    /// The daemon answers, the process is killed, and the answer is lost.
    PassAndKill(u32),
    /// The client gets this error, the daemon nothing.
    Refuse(&'static str),
}

type Rule = Box<dyn FnMut(usize, &Message) -> Action + Send>;

pub struct Proxy {
    pub socket: PathBuf,
    seen: Arc<Mutex<Vec<Message>>>,
}

impl Proxy {
    /// Stands before `daemon`; `rule` is asked about each request, which it gets with its number from 0 on.
    pub fn start(
        directory: &Path,
        daemon: PathBuf,
        rule: impl FnMut(usize, &Message) -> Action + Send + 'static,
    ) -> Self {
        let socket = directory.join("proxy");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        let rule: Arc<Mutex<Rule>> = Arc::new(Mutex::new(Box::new(rule)));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (record, rule) = (Arc::clone(&record), Arc::clone(&rule));
                let daemon = daemon.clone();
                std::thread::spawn(move || serve(client, &daemon, &record, &rule));
            }
        });
        Self { socket, seen }
    }

    /// A proxy that only counts.
    pub fn counting(directory: &Path, daemon: PathBuf) -> Self {
        Self::start(directory, daemon, |_, _| Action::Pass)
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Message> {
        self.seen.lock().unwrap().clone()
    }
}

/// Sends a process a signal.
pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
    assert!(sent.success(), "no process {pid}");
}

fn serve(mut client: UnixStream, daemon: &Path, seen: &Mutex<Vec<Message>>, rule: &Mutex<Rule>) {
    let Ok(mut daemon) = UnixStream::connect(daemon) else { return };
    while let Some(message) = Message::read(&mut client) {
        let number = {
            let mut seen = seen.lock().unwrap();
            seen.push(message.clone());
            seen.len() - 1
        };
        let action = (rule.lock().unwrap())(number, &message);
        let reply = match action {
            Action::Kill(pid) => return signal(pid, "KILL"),
            Action::Refuse(error) => {
                Message { operation: ERROR, body: [error.as_bytes(), b"\0"].concat(), ..message }
            }
            Action::Pass | Action::PassAndKill(_) => {
                if daemon.write_all(&message.bytes()).is_err() {
                    return;
                }
                let Some(reply) = Message::read(&mut daemon) else { return };
                if let Action::PassAndKill(pid) = action {
                    return signal(pid, "KILL");
                }
                reply
            }
        };
        if client.write_all(&reply.bytes()).is_err() {
            return;
        }
    }
}
