// SPDX-License-Identifier: LGPL-2.1-or-later
//! The host's own programs, asked: xl, xenstore-ls.

use std::process::Command;

/// Why a program gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It cannot be run.
    #[error("cannot run {program}: {problem}")]
    Run {
        /// The program.
        program: String,
        /// What the system says.
        problem: std::io::Error,
    },
    /// It says no.
    #[error("{program}: {message}")]
    Refused {
        /// The program and its arguments.
        program: String,
        /// What it says.
        message: String,
    },
}

/// What a program writes; it must be content with its arguments.
///
/// # Errors
///
/// It cannot be run, or it says no.
pub fn run(program: &str, arguments: &[&str]) -> Result<String, ToolError> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .map_err(|problem| ToolError::Run { program: program.to_owned(), problem })?;
    if !output.status.success() {
        return Err(ToolError::Refused {
            program: format!("{program} {}", arguments.join(" ")),
            message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
