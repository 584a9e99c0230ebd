// SPDX-License-Identifier: LGPL-2.1-or-later
//! `attach`: would this device fit into a running guest, where, and if not why.

use std::io::Write;

use clap::Args;

use super::hotplug_target::{DeviceName, LayoutArguments};
use super::present::PresentArguments;
use super::safety::Safety;
use super::{Answer, Failure, Format, HostArguments, write_json};
use crate::hotplug;
use crate::pci::Sbdf;
use crate::report;

/// Ask whether a device would fit into a running guest and where; nothing that is there moves.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  xen-pci-layout attach --domid 7 3b:00.0\n  \
              xen-pci-layout attach --domid 7 3b:00.0@6 --commit && xl pci-attach 7 3b:00.0@6\n  \
              xen-pci-layout attach --layout layout.json device.json --format json")]
pub struct Attach {
    #[command(flatten)]
    layout: LayoutArguments,
    /// The host's device, SSSS:BB:SS.F@VSLOT in hexadecimal (SSSS: and @VSLOT may be left out), or a JSON file with
    /// one element of a guest description's devices
    #[arg(value_name = "DEVICE")]
    device: DeviceName,
    #[command(flatten)]
    host: HostArguments,
    #[command(flatten)]
    present: PresentArguments,
    #[command(flatten)]
    safety: Safety,
    /// State that the device model maps the page that contains a passed-through BAR (stock QEMU maps the next one
    /// where a BAR does not start a page): such BARs then keep their offset into the page
    #[arg(long)]
    maps_containing_page: bool,
    /// Record it, if it fits: the space is taken from then on
    #[arg(long)]
    commit: bool,
    /// How to write the answer
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Attach {
    /// Whether a failure is to be JSON.
    pub fn wants_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Asks, records if that is wanted, and answers.
    pub fn run(&self, out: &mut dyn Write) -> Result<Answer, Failure> {
        let (asked, host) = self.device.load(&self.host)?;
        let safety = self.safety.clone();
        let maps_containing_page = self.maps_containing_page;
        let seen = self.layout.ask(&self.present)?;
        let now = seen.clone();
        let answer = self.layout.change(self.commit, move |layout| {
            let mut now = now.apply(layout);
            now.present.maps_containing_page = maps_containing_page;
            let device = asked.place_in(&now.layout, &now.present)?;
            let others = now.layout.devices.iter().filter_map(|there| there.host);
            let beside: Vec<Sbdf> = others.filter(|there| Some(*there) != device.host).collect();
            let (page, host) = (now.layout.page_size, host.as_ref());
            let accepted = safety.check_device(&device, &beside, page, maps_containing_page, host)?;
            let attachment = hotplug::attach(&now.layout, &now.present, &device)?;
            Ok((attachment.layout.clone(), (device, attachment, now.differences, accepted)))
        })?;
        match (&answer, self.format) {
            (Ok((device, found, differences, accepted)), Format::Json) => {
                let mut answer = report::hotplug::attached_json(device, found, self.commit);
                if let Some(answer) = answer.as_object_mut() {
                    answer.insert("addresses".to_owned(), seen.source().into());
                    answer.insert("differences".to_owned(), serde_json::json!(differences));
                    let warnings = answer.get_mut("warnings").and_then(serde_json::Value::as_array_mut);
                    if let Some(warnings) = warnings {
                        warnings.extend(accepted.iter().map(|warning| serde_json::json!(warning)));
                    }
                }
                write_json(out, &answer)?;
            }
            (Ok((device, found, differences, accepted)), Format::Text) => {
                report::hotplug::attached(out, device, found, self.commit)?;
                seen.write(out, differences)?;
                for warning in accepted {
                    writeln!(out, "warning: {} [{}]", warning.message, warning.code)?;
                }
            }
            (Err(refusal), Format::Json) => write_json(out, &report::hotplug::refused_json(refusal))?,
            (Err(refusal), Format::Text) => report::hotplug::refused(out, refusal)?,
        }
        Ok(if answer.is_ok() { Answer::Yes } else { Answer::No })
    }
}
