// SPDX-License-Identifier: GPL-2.0-only
//! Runs genuine hvmloader binaries whole in a CPU emulator, over a modelled PCI bus, hypercall page and xenstore ring.
//!
//! It says for guests in the corpus's form what the loader did, and compares predictions with that.

mod check;
mod compare;
mod config_space;
mod generate;
mod guest;
mod hypercall;
mod loader;
mod machine;
mod outcome;
mod shrink;
mod variables;
mod xenstore;

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde_json::json;

use compare::Comparison;
use generate::Generator;
use guest::Line;
use machine::Emulator;
use variables::Variables;

/// Runs genuine hvmloader binaries over a modelled PCI bus
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    mode: Option<Mode>,
    /// The hvmloader binary: guests on standard input, one JSON object a line, are answered in order
    loader: Option<PathBuf>,
    /// Also say what every BAR's register holds in the end
    #[arg(long, requires = "loader")]
    registers: bool,
    /// Print so many guests made afresh, instead of running any
    #[arg(long, value_name = "N", conflicts_with = "loader")]
    generate: Option<u64>,
    #[command(flatten)]
    random: Random,
}

#[derive(Args)]
struct Random {
    /// Where the guests come from: the same seed makes the same guests [default: a new one, printed]
    #[arg(long)]
    seed: Option<u64>,
    /// At most so many functions beside the machine's own [default: as many as the kind of guest has]
    #[arg(long, value_name = "N")]
    devices: Option<usize>,
}

impl Random {
    /// The generator, its seed printed so that any run can be had again.
    fn generator(self) -> Generator {
        let seed = self.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
        eprintln!("seed: {seed}");
        Generator { seed, devices: self.devices }
    }
}

#[derive(Subcommand)]
enum Mode {
    /// Runs recorded cases from standard input again and compares every field
    Check {
        /// The hvmloader binary
        #[arg(long)]
        loader: PathBuf,
        /// Only cases of this release
        #[arg(long)]
        xen: Option<String>,
        /// A field that may differ; may be given several times
        #[arg(long, value_name = "FIELD")]
        leave_out: Vec<String>,
    },
    /// Compares a program's predictions with the loader over guests made afresh
    Compare {
        /// The hvmloader binary
        #[arg(long)]
        loader: PathBuf,
        /// Its release, by the name that the corpus gives its algorithm
        #[arg(long)]
        xen: String,
        /// What predicts: run as PROGRAM replay --print FILE
        #[arg(long)]
        program: PathBuf,
        /// How many guests
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
        count: u64,
        #[command(flatten)]
        random: Random,
    },
}

/// An answer of no, or why there is none.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Differs(String),
    #[error("{0}")]
    Input(String),
    #[error("{0}")]
    Surroundings(String),
    #[error("nobody reads the answers")]
    ClosedPipe,
}

impl Failure {
    const fn exit_code(&self) -> u8 {
        match self {
            Self::Differs(_) => 1,
            Self::Input(_) => 2,
            Self::Surroundings(_) => 3,
            // Not a failure: whoever read has read enough.
            Self::ClosedPipe => 0,
        }
    }
}

fn surroundings(error: impl std::fmt::Display) -> Failure {
    Failure::Surroundings(error.to_string())
}

/// A failed write of answers.
fn unwritten(error: std::io::Error) -> Failure {
    if error.kind() == std::io::ErrorKind::BrokenPipe { Failure::ClosedPipe } else { surroundings(error) }
}

/// A machine for the loader in this file, its variables found.
fn emulator(path: &Path) -> Result<Emulator, Failure> {
    let loader = loader::Loader::read(path).map_err(|error| Failure::Input(error.to_string()))?;
    let prepared = Emulator::new(&loader).and_then(|mut emulator| {
        let variables = Variables::find(&mut emulator)?;
        emulator.set_variables(variables);
        Ok(emulator)
    });
    prepared.map_err(|error| surroundings(format!("{}: {error}", path.display())))
}

fn lines() -> impl Iterator<Item = Result<Line, Failure>> {
    let lines = std::io::stdin().lock().lines();
    (1..).zip(lines).map(|(number, line)| {
        let line = line.map_err(surroundings)?;
        line.parse().map_err(|error| Failure::Input(format!("line {number}: {error}")))
    })
}

/// Answers each guest with a line.
fn answer(loader: &Path, registers: bool) -> Result<(), Failure> {
    let mut emulator = emulator(loader)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in lines() {
        let line = line?;
        let answer = match emulator.run(&line.guest) {
            Ok(run) => {
                let mut output = outcome::outcome(&line.guest, &run);
                if let (true, Some(fields)) = (registers, output.as_object_mut()) {
                    fields.insert("registers".to_owned(), outcome::registers(&line.guest, &run));
                }
                json!({"id": line.id, "output": output})
            }
            Err(error) => json!({"id": line.id, "error": error.to_string()}),
        };
        writeln!(out, "{answer}").map_err(unwritten)?;
    }
    out.flush().map_err(unwritten)
}

/// Runs recorded cases again.
fn check(loader: &Path, xen: Option<&str>, leave_out: &[String]) -> Result<(), Failure> {
    const SHOWN: usize = 10;
    let leave_out: Vec<&str> = leave_out.iter().map(String::as_str).collect();
    let mut emulator = emulator(loader)?;
    let (mut cases, mut differing) = (0_u32, Vec::new());
    for line in lines() {
        let line = line?;
        if xen.is_some() && line.xen.as_deref() != xen {
            continue;
        }
        cases += 1;
        let recorded = line.output.ok_or_else(|| Failure::Input(format!("{}: nothing recorded", line.id)))?;
        let found = match emulator.run(&line.guest) {
            Ok(run) => check::differences(&outcome::outcome(&line.guest, &run), &recorded, &leave_out),
            Err(error) => return Err(surroundings(format!("{}: {error}", line.id))),
        };
        if !found.is_empty() {
            let fields: Vec<String> = found.iter().map(|difference| format!("  {difference}\n")).collect();
            differing.push(format!("{}\n{}", line.id, fields.concat()));
        }
    }
    println!("{cases} recorded cases, {} differ", differing.len());
    match (cases, differing.len()) {
        (0, _) => Err(Failure::Input("no case to check".to_owned())),
        (_, 0) => Ok(()),
        _ => Err(Failure::Differs(differing.into_iter().take(SHOWN).collect())),
    }
}

/// Prints guests.
fn generate(count: u64, generator: Generator) -> Result<(), Failure> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for number in 0..count {
        let (id, guest) = generator.guest(number);
        writeln!(out, "{}", json!({"id": id, "input": guest})).map_err(unwritten)?;
    }
    out.flush().map_err(unwritten)
}

/// Compares a program with the loader; each difference is shown on a guest as small as it gets.
fn compare(
    loader: &Path,
    xen: &str,
    program: &Path,
    count: u64,
    generator: Generator,
) -> Result<(), Failure> {
    const SHOWN: usize = 3;
    let mut emulator = emulator(loader)?;
    let mut comparison = Comparison { emulator: &mut emulator, xen, program };
    let (differing, findings) = comparison.run(generator, count, SHOWN).map_err(surroundings)?;
    println!("{count} guests made afresh, Xen {xen}, seed {}: {differing} differ", generator.seed);
    if differing == 0 {
        return Ok(());
    }
    let mut report = format!("{differing} of {count} guests differ; the first, shrunk:\n");
    for finding in findings {
        report.push_str(&format!("{}\n{}\n", finding.id, finding.line));
        finding.differences.iter().for_each(|difference| report.push_str(&format!("  {difference}\n")));
    }
    Err(Failure::Differs(report))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match (arguments.mode, arguments.loader, arguments.generate) {
        (Some(Mode::Check { loader, xen, leave_out }), ..) => check(&loader, xen.as_deref(), &leave_out),
        (Some(Mode::Compare { loader, xen, program, count, random }), ..) => {
            compare(&loader, &xen, &program, count, random.generator())
        }
        (None, Some(loader), _) => answer(&loader, arguments.registers),
        (None, None, Some(count)) => generate(count, arguments.random.generator()),
        (None, None, None) => Err(Failure::Input("name a loader, or a mode (--help)".to_owned())),
    };
    match done {
        Ok(()) | Err(Failure::ClosedPipe) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("hvmloader-emulator: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}
