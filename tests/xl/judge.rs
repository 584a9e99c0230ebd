// SPDX-License-Identifier: LGPL-2.1-or-later
//! xl's own parsers as the judge of ours. The stage of the tests that runs this says in the environment where they are:
//! `XL_SETTINGS` is tests/xl/settings.c built against libxlutil, `XL` a script that runs the real `xl create -n FILE`,
//! `XL_EXAMPLES` a list of files that Debian's Xen packages ship.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed"
)]

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use xen_pci_layout::source::domain_config::{DomainConfig, RdmStrategy};
use xen_pci_layout::source::xl_cfg::{Value, parse_settings};
use xen_pci_layout::source::{libxl_json, xl_cfg};

/// A small generator of pseudo-random numbers (xorshift64*), so that a seed gives the same files again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next()).unwrap() % limit
    }

    fn pick<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }
}

fn seed() -> u64 {
    let seed = match std::env::var("SEED") {
        Ok(seed) => seed.parse().expect("SEED is a number"),
        Err(_) => u64::from(std::process::id()) * 0x9e37_79b9 + 1,
    };
    println!("SEED={seed}");
    seed
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run tests/run xl-parser"))
}

// What the grammar says, compared with libxlutil over files made of its words.

const WORDS: [&str; 44] = [
    "a",
    "b",
    "c",
    "d",
    "e",
    "f.g_h",
    "1",
    "0x1f",
    "10f",
    "'x'",
    "\"y\"",
    "'it\\'s'",
    "\"\\n\\t\\\\\"",
    "'\\012'",
    "'\\0'",
    "'\\7 1'",
    "'\\x41'",
    "'\\q'",
    "[",
    "]",
    "[",
    "]",
    ",",
    ",",
    "=",
    "=",
    "+=",
    ";",
    "\n",
    "\n",
    "\n",
    " ",
    "\t",
    "# c\n",
    "#",
    "+",
    "A",
    "\r\n",
    "'",
    "\"",
    "-1",
    "é",
    "\\",
    "((",
];

fn grammar_file(random: &mut Random) -> Vec<u8> {
    let mut text = String::new();
    for _ in 0..=random.below(6) {
        let name = random.pick(&["a", "b", "c", "d", "e", "f", "g", "h"]);
        let operator = random.pick(&["=", "=", " = ", "+="]);
        let value = random.pick(&[
            "1",
            "'s'",
            "\"t\\tu\"",
            "[]",
            "['x']",
            "[ 'x', \"y\",\n]",
            "[[1,2],'z']",
            "[\n#c\n1\n,\n2]",
            "''",
        ]);
        let end = random.pick(&["\n", "\n", ";", " # comment\n", "\n\n"]);
        write!(text, "{name}{operator}{value}{end}").unwrap();
    }
    let mut bytes = text.into_bytes();
    for _ in 0..random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = (at + random.below(3)).min(bytes.len());
        let insert = if random.below(3) == 0 { "" } else { random.pick(&WORDS) };
        bytes.splice(at..end, insert.bytes());
    }
    bytes
}

fn shown(value: &Value) -> String {
    match value {
        Value::Atom(text) => text.bytes().fold("S".to_owned(), |mut shown, byte| {
            write!(shown, "{byte:02x}").unwrap();
            shown
        }),
        Value::List(values) => {
            let items: String = values.iter().map(|value| shown(value) + ",").collect();
            format!("[{items}]")
        }
    }
}

/// What we make of a file, in the words of settings.c; a line number for an error.
fn ours(text: &[u8]) -> Result<String, usize> {
    let mut settings = parse_settings(text).map_err(|error| error.line)?;
    settings.sort_by(|one, other| one.name.cmp(&other.name));
    let named = settings.iter().filter(|setting| matches!(setting.name.as_bytes(), [b'a'..=b'h']));
    Ok(named.map(|setting| format!("{}={};", setting.name, shown(&setting.value))).collect())
}

fn theirs(files: &[PathBuf]) -> Vec<String> {
    let mut child =
        Command::new(variable("XL_SETTINGS")).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let names: String = files.iter().map(|file| format!("{}\n", file.display())).collect();
    let writer = std::thread::spawn(move || input.write_all(names.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "settings.c: {}", output.status);
    String::from_utf8(output.stdout).unwrap().lines().map(readable).collect()
}

/// An answer of settings.c with what is no UTF-8 in its strings replaced, as we replace it.
fn readable(line: &str) -> String {
    let mut parts = line.split('S');
    let mut readable = parts.next().unwrap().to_owned();
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(part.len());
        let (digits, rest) = part.split_at(end);
        let bytes: Vec<u8> = (0..digits.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
            .collect();
        readable += &shown(&Value::Atom(String::from_utf8_lossy(&bytes).into_owned()));
        readable += rest;
    }
    readable
}

fn compare_grammar(files: &[PathBuf]) {
    let answers = theirs(files);
    assert_eq!(answers.len(), files.len());
    let mut refused = 0;
    for (file, theirs) in files.iter().zip(answers) {
        let text = fs::read(file).unwrap();
        let ours = ours(&text);
        let text = String::from_utf8_lossy(&text);
        match theirs.strip_prefix("E ") {
            None => assert_eq!(ours.as_ref(), Ok(&theirs), "{}:\n{text}", file.display()),
            Some(line) => {
                refused += 1;
                let (line, newline) = line.split_once(' ').unwrap_or((line, ""));
                // libxlutil counts an unexpected end of line to the line before it, and says of the end of the file what
                // it read before.
                let line = line.parse::<usize>().unwrap() + usize::from(!newline.is_empty());
                let our_line = ours.expect_err(&format!("xl refuses it:\n{text}"));
                let at_the_end = our_line > text.trim_end_matches('\n').lines().count().saturating_sub(1);
                assert!(our_line == line || at_the_end, "line {our_line}, xl says {line}:\n{text}");
            }
        }
    }
    println!("{} files read alike, {refused} of them refused", files.len());
}

#[test]
fn the_grammar_is_libxlutils() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = Random(seed());
    let files: Vec<PathBuf> = (0..20_000)
        .map(|number| {
            let file = directory.path().join(number.to_string());
            fs::write(&file, grammar_file(&mut random)).unwrap();
            file
        })
        .collect();
    compare_grammar(&files);
}

#[test]
fn debians_examples_are_read_alike() {
    let files: Vec<PathBuf> = variable("XL_EXAMPLES").split_whitespace().map(PathBuf::from).collect();
    assert!(files.len() >= 4, "Debian's packages ship more: {files:?}");
    compare_grammar(&files);
}

// What the parameters say, compared with xl's domain configuration.

/// What the real xl makes of a file: its JSON, or nothing if it refuses it.
fn xl(file: &Path) -> Result<String, String> {
    let output = Command::new(variable("XL")).arg(file).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    match output.status.success() {
        true => Ok(text),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// The keys that xl of 4.17 does not know leave no trace in its JSON; and the policy that goes with `rdm="strategy=host"`,
/// also for every device that names none, is whatever xl finds on its stack.
fn comparable(mut config: DomainConfig) -> DomainConfig {
    if config.rdm_strategy == RdmStrategy::Host {
        config.rdm_policy = None;
        config.pci.iter_mut().for_each(|device| device.rdm_policy = None);
    }
    config.platform_bar_uncached = None;
    config.reserve = None;
    config.reserve_low = None;
    config.reserve_high = None;
    config
}

/// Compares one file; whether xl took it.
fn compare_domain(file: &Path) -> bool {
    let text = fs::read(file).unwrap();
    let shown = String::from_utf8_lossy(&text);
    let ours = xl_cfg::parse(&text);
    match xl(file) {
        Ok(json) => {
            let (theirs, warnings) =
                libxl_json::parse(&json).unwrap_or_else(|error| panic!("{error}:\n{json}"));
            let (ours, _) = ours.unwrap_or_else(|error| panic!("we refuse: {error}\n{shown}"));
            assert_eq!(comparable(ours), comparable(theirs), "{}:\n{shown}\n{json}", file.display());
            assert!(warnings.is_empty(), "{warnings:?}");
            true
        }
        Err(message) => {
            assert!(ours.is_err(), "xl refuses, we do not: {message}\n{shown}");
            false
        }
    }
}

fn files_in(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    files
}

#[test]
fn our_files_and_debians_give_the_same_domain() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = files_in(&top.join("tests/xl/fixtures"), "cfg");
    files.extend(
        ["endpoint-test", "consumer-gpu", "hyperscale"]
            .map(|name| top.join("examples").join(name).join("guest.cfg")),
    );
    files.extend(
        variable("XL_EXAMPLES")
            .split_whitespace()
            .filter(|file| file.contains("xlexample"))
            .map(PathBuf::from),
    );
    for file in &files {
        assert!(compare_domain(file), "{}: xl refuses it", file.display());
    }
    println!("{} configurations", files.len());
}

#[test]
fn the_fixtures_are_what_xl_prints() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/xl/fixtures");
    for file in files_in(&directory, "cfg") {
        let stored = file.with_extension("json");
        // Of each run its own: the domain's name in numbers, and a policy that xl leaves to chance.
        let without = |text: &str, fields: &[&str]| {
            let lines = text.lines().filter(|line| !fields.iter().any(|field| line.contains(field)));
            lines.map(|line| line.to_owned() + "\n").collect::<String>()
        };
        let fresh = xl(&file).unwrap();
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&stored, without(&fresh, &["\"uuid\""])).unwrap();
        }
        let differing = ["\"uuid\"", "\"policy\""];
        let stored_text = fs::read_to_string(&stored).unwrap();
        assert_eq!(without(&stored_text, &differing), without(&fresh, &differing), "{}", stored.display());
    }
}

#[test]
fn what_xl_refuses_we_refuse() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/xl/refused");
    for file in files_in(&directory, "cfg") {
        assert!(!compare_domain(&file), "{}: xl takes it", file.display());
    }
}

const PCI: [&str; 16] = [
    "01:00.0",
    "0000:01:00.0",
    "1:0.1",
    "01:00.0@5",
    "01:00.0@1f",
    "01:00.*@6",
    "01:00.0@20",
    "01:00",
    "01:00.8",
    "bdf=01:00.0",
    "bdf=01:00.0,vslot=7",
    "name=card",
    "01:00.0,name=card",
    "",
    "01:00.0,",
    "0000:0x1:00.0",
];
const OPTIONS: [&str; 12] = [
    "",
    "",
    ",permissive=1",
    ",permissive=yes",
    ",msitranslate=1",
    ",power_mgmt=0",
    ",seize=1",
    ",rdm_policy=strict",
    ",rdm_policy=relaxed",
    ",rdm_policy=lax",
    ",colour=red",
    ",permissive",
];
const DISKS: [&str; 14] = [
    "/dev/x,raw,hda,w",
    "/dev/x,,xvda",
    "phy:/dev/x,sda,w",
    "file:/x.iso,hdc:cdrom,r",
    ",hdc:cdrom,r",
    "vdev=hda",
    "format=qcow2,vdev=sdb,target=/x,y",
    "/x,bmp,hda",
    "/x,raw,hda,x",
    "/x,raw",
    "/x,qcow2,hdb,r,cdrom",
    "tap:aio:/x,hda,w",
    "devtype=cdrom,vdev=hdd",
    "foo:/x,hda",
];

fn domain_file(random: &mut Random) -> String {
    let mut text = String::from("name='guest'\ntype='hvm'\n");
    let number = |random: &mut Random| {
        random.pick(&[
            "512", "0x400", "0", "1024", "010", "'2048'", "3840", "256", "255", "4096", "'1G'", "16", "128",
            "''",
        ])
    };
    for _ in 0..=random.below(8) {
        let key = random.pick(&[
            "memory",
            "maxmem",
            "mmio_hole",
            "videoram",
            "rdm_mem_boundary",
            "usbversion",
            "hap",
            "usb",
            "stdvga",
            "acpi",
            "xen_platform_pci",
            "spice",
            "spicevdagent",
            "spiceusbredirection",
            "pci_permissive",
            "pci_seize",
            "pci_msitranslate",
            "pci_power_mgmt",
            "device_model_stubdomain_override",
        ]);
        writeln!(text, "{key}={}", number(random)).unwrap();
    }
    let word = random.pick(&[
        "vga='stdvga'",
        "vga='cirrus'",
        "vga='none'",
        "vga='qxl'",
        "vga='voodoo'",
        "hdtype='ahci'",
        "hdtype='IDE'",
        "hdtype='mfm'",
        "passthrough='enabled'",
        "passthrough='DISABLED'",
        "passthrough='maybe'",
        "soundhw='hda'",
        "rdm='strategy=host'",
        "rdm='strategy=host,policy=relaxed'",
        "rdm='policy=strict'",
        "rdm='strategy=none'",
        "bios='ovmf'",
        "bios='efi'",
        "firmware='uefi'",
        "firmware='seabios'",
        "firmware='/x'",
        "vendor_device='xenserver'",
        "gfx_passthru=1",
        "gfx_passthru='igd'",
        "gfx_passthru='pci'",
        "device_model_version='qemu-xen'",
        "device_model_version='qemu'",
        "usbdevice='tablet'",
        "usbdevice=['tablet','mouse']",
        "device_model_args='x'",
        "device_model_args=['-device','edu']",
        "device_model_args_hvm=['-x']",
        "usbctrl=['version=3,ports=4']",
        "usbctrl=['type=pv']",
        "usbctrl=['colour=red']",
        "usbdev=['hostbus=1,hostaddr=2']",
        "type='h'",
        "builder='hvm'",
        "builder='generic'",
        "memory=[1]",
        "vif='x'",
        "pci='01:00.0'",
    ]);
    writeln!(text, "{word}").unwrap();
    let pci: Vec<String> =
        (0..random.below(3)).map(|_| format!("'{}{}'", random.pick(&PCI), random.pick(&OPTIONS))).collect();
    let disks: Vec<String> = (0..random.below(3)).map(|_| format!("'{}'", random.pick(&DISKS))).collect();
    let nics = random.pick(&[
        "",
        "''",
        "'type=vif'",
        "'type=ioemu,model=e1000,bridge=x'",
        "'bridge=x, model=rtl8139'",
        "'mac=00:16:3e:0:0:1','model=x'",
    ]);
    // A wrong entry ends it all: most files have none.
    if random.below(3) == 0 {
        writeln!(text, "pci=[{}]", pci.join(",")).unwrap();
    }
    if random.below(3) == 0 {
        writeln!(text, "disk=[{}]", disks.join(",")).unwrap();
    }
    writeln!(text, "vif=[{nics}]").unwrap();
    text
}

#[test]
fn random_configurations_give_the_same_domain() {
    let directory = tempfile::tempdir().unwrap();
    let mut random = Random(seed());
    let file = directory.path().join("guest.cfg");
    let mut taken = 0;
    for _ in 0..500 {
        fs::write(&file, domain_file(&mut random)).unwrap();
        taken += usize::from(compare_domain(&file));
    }
    println!("500 configurations, {taken} of them taken by xl");
    assert!((100..450).contains(&taken), "both answers are to be seen: {taken} of 500");
}
