// SPDX-License-Identifier: LGPL-2.1-or-later
//! A finding: what is wrong, what can happen, what mends it. As data, so that text and JSON say the same.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::address::{Address, Range, Size};
use crate::pci::{Bar, Sbdf};

/// What is wrong, in a name that scripts match and `--accept` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// BARs of different functions on one page (XSA-461).
    SharedPage,
    /// BARs of different functions at the same addresses.
    OverlappingBars,
    /// A memory BAR that does not start a page.
    UnalignedBar,
    /// The BARs of virtual functions are smaller than a page.
    VfBarsSmall,
    /// Several BARs of one function on one page.
    SharedPageWithin,
    /// An MSI-X table or its pending bits on one page with other registers.
    MsixPage,
    /// A BAR without an address.
    UnassignedBar,
    /// A BAR that the bridge above does not forward.
    OutsideWindow,
    /// A BAR that the processor, the IOMMU or the guest cannot reach.
    BeyondWidth,
    /// The BARs of virtual functions have no address.
    VfBarsUnassigned,
    /// A virtual function whose physical function is not there.
    VfWithoutPf,
    /// A physical function that has virtual ones enabled.
    PfWithVfs,
    /// A function is not where, or not what, it was when the saved audit was made.
    Changed,
    /// A virtual function's memory enable bit is hard-wired to 0.
    VfMemoryEnable,
    /// A resizable BAR that could be larger.
    ResizableSmall,
    /// A ROM that the guest will not be able to read.
    RomUnreadable,
    /// A BAR whose size the source does not tell.
    SizeUnknown,
    /// The capabilities could not be read.
    CapabilitiesUnreadable,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Good to know.
    Note,
    /// The device will not work, or not well.
    Functional,
    /// A guest reaches what is not its own.
    Security,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What.
    pub code: Code,
    /// How bad.
    pub severity: Severity,
    /// The functions it is about, ascending.
    pub devices: Vec<Sbdf>,
    /// The BARs it is about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bars: Vec<BarPlace>,
    /// The pages that they share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<Page>,
    /// What can happen, in one sentence.
    pub consequence: String,
    /// What mends it on this host.
    pub remedy: Remedy,
}

/// A BAR and where the host has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BarPlace {
    /// The function.
    pub sbdf: Sbdf,
    /// The register's offset in configuration space.
    pub reg: u8,
    /// Its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Address>,
    /// Its size, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
}

/// One page, or some in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// The first address.
    pub start: Address,
    /// The first address past it.
    pub end: Address,
}

/// What mends a finding.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remedy {
    /// What to do.
    pub advice: String,
    /// For the command line of the host's kernel (dom0's, not Xen's).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_argument: Option<String>,
    /// What that costs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
}

impl Remedy {
    /// A remedy without an argument.
    pub(super) fn advice(advice: impl Into<String>) -> Self {
        Self { advice: advice.into(), ..Self::default() }
    }

    /// A remedy that is a kernel argument.
    pub(super) fn argument(argument: &str, advice: impl Into<String>) -> Self {
        Self { advice: advice.into(), kernel_argument: Some(argument.to_owned()), cost: None }
    }
}

impl BarPlace {
    pub(super) fn new(sbdf: Sbdf, bar: &Bar) -> Self {
        Self { sbdf, reg: bar.reg, address: bar.host_address, size: Some(bar.size) }
    }
}

impl From<Range> for Page {
    fn from(range: Range) -> Self {
        Self { start: range.start(), end: range.end() }
    }
}

/// A BAR's name as lspci's readers know it: `BAR 0` to `BAR 5`, `ROM`.
pub(crate) fn bar_name(reg: u8) -> String {
    match reg.checked_sub(0x10).map(|offset| offset / 4) {
        Some(index) if index < 6 => format!("BAR {index}"),
        _ => "ROM".to_owned(),
    }
}

/// `BAR 0 (256 at 0xe0124600)`.
impl fmt::Display for BarPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bar_name(self.reg))?;
        match (self.size, self.address) {
            (Some(size), Some(address)) => write!(f, " ({size} at {address})"),
            (Some(size), None) => write!(f, " ({size})"),
            (None, Some(address)) => write!(f, " (at {address})"),
            (None, None) => Ok(()),
        }
    }
}

/// The name that scripts and `--accept` use.
impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use clap::ValueEnum as _;
        match self.to_possible_value() {
            Some(value) => f.pad(value.get_name()),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Note => "note",
            Self::Functional => "broken",
            Self::Security => "unsafe",
        })
    }
}

/// `a`, `a and b`, `a, b and c`.
pub(crate) fn list(words: impl IntoIterator<Item = impl fmt::Display>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| word.to_string()).collect();
    match words.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
