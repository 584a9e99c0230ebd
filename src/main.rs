// SPDX-License-Identifier: LGPL-2.1-or-later
//! The command line: parse, call one command, print, exit code.
#![forbid(unsafe_code)]

use std::io::{self, BufWriter, ErrorKind, Write};
use std::process::ExitCode;

use clap::Parser;
use xen_pci_layout::command::{Answer, CommandLine, Failure};
use xen_pci_layout::report::printable;

fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    let mut out = BufWriter::new(io::stdout().lock());
    let result = command_line.run(&mut out).and_then(|answer| {
        out.flush()?;
        Ok(answer)
    });
    match result {
        Ok(Answer::Yes) => ExitCode::SUCCESS,
        Ok(Answer::No) => ExitCode::from(1),
        // A reader that has seen enough: nothing is wrong.
        Err(Failure::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            if command_line.wants_json() && !matches!(failure, Failure::Answered(_)) {
                // If this cannot be written either, the exit code and standard error still say it.
                let _ = writeln!(out, "{}", failure.to_json()).and_then(|()| out.flush());
            }
            // It may quote the input.
            let lines: Vec<String> = failure.to_string().lines().map(printable).collect();
            let _ = writeln!(io::stderr(), "xen-pci-layout: {}", lines.join("\n"));
            ExitCode::from(failure.exit_code())
        }
    }
}
