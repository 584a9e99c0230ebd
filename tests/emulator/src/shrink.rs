// SPDX-License-Identifier: GPL-2.0-only
//! Makes a guest that shows a difference small: whatever can go while the difference stays, goes.

use crate::guest::{Bar, BarKind, Device, Guest};

/// A way to make a guest smaller.
type Change = Box<dyn Fn(&mut Guest)>;

/// Shrinks a guest for which `shows` is true, until nothing more can be taken away. `shows` is asked of many guests at
/// once, since asking costs a process.
///
/// # Errors
/// Those of `shows`.
pub fn shrink<E>(guest: Guest, mut shows: impl FnMut(&[Guest]) -> Result<Vec<bool>, E>) -> Result<Guest, E> {
    let mut guest = guest;
    'smaller: loop {
        // Big pieces first: what they take away need not be tried one by one.
        for changes in [without_devices(&guest), without_details(&guest), simpler(&guest)] {
            let candidates: Vec<Guest> = changes
                .into_iter()
                .map(|change| {
                    let mut smaller = guest.clone();
                    change(&mut smaller);
                    smaller
                })
                .filter(|smaller| *smaller != guest)
                .collect();
            let shown = shows(&candidates)?;
            if let Some((smaller, _)) = candidates.into_iter().zip(shown).find(|(_, shown)| *shown) {
                guest = smaller;
                continue 'smaller;
            }
        }
        return Ok(guest);
    }
}

/// Halves, quarters and so on of the functions taken away, down to single ones.
fn without_devices(guest: &Guest) -> Vec<Change> {
    let count = guest.devices.len();
    let mut changes: Vec<Change> = Vec::new();
    let mut piece = count;
    while piece > 0 {
        for start in (0..count).step_by(piece) {
            changes.push(Box::new(move |guest| {
                guest.devices.drain(start..count.min(start + piece));
            }));
        }
        piece /= 2;
    }
    changes
}

/// A change of one of the guest's functions.
fn of_device(place: usize, change: impl Fn(&mut Device) + 'static) -> Change {
    Box::new(move |guest| guest.devices.get_mut(place).into_iter().for_each(&change))
}

/// A change of one of a function's BARs.
fn of_bar(place: usize, number: usize, change: impl Fn(&mut Bar) + 'static) -> Change {
    of_device(place, move |device| device.bars.get_mut(number).into_iter().for_each(&change))
}

/// One BAR, register, region of memory or key taken away.
fn without_details(guest: &Guest) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    for number in 0..guest.memory_map.len() {
        changes.push(Box::new(move |guest| {
            guest.memory_map.remove(number);
        }));
    }
    // A loader does not start without the key that names the firmware.
    for key in guest.xenstore.keys().filter(|key| *key != "hvmloader/bios") {
        let key = key.clone();
        changes.push(Box::new(move |guest| {
            guest.xenstore.remove(&key);
        }));
    }
    for (place, device) in guest.devices.iter().enumerate() {
        changes.extend((0..device.bars.len()).map(|number| {
            of_device(place, move |device| {
                device.bars.remove(number);
            })
        }));
        changes.extend((0..device.raw.len()).map(|number| {
            of_device(place, move |device| {
                device.raw.remove(number);
            })
        }));
    }
    changes
}

/// One value made the usual one.
fn simpler(guest: &Guest) -> Vec<Change> {
    let mut changes: Vec<Change> = vec![
        Box::new(|guest| guest.cpuid_max_ext = None),
        Box::new(|guest| guest.phys_bits = 46),
        Box::new(|guest| guest.high_mem_pgend = 0),
        Box::new(|guest| guest.low_mem_pgend = 0x4_0000),
        Box::new(|guest| (guest.profile, guest.weird) = (None, None)),
    ];
    for (place, device) in guest.devices.iter().enumerate() {
        changes.push(of_device(place, |device| device.command = 0));
        changes.push(of_device(place, |device| (device.int_pin, device.int_line, device.header) = (0, 0, 0)));
        for number in 0..device.bars.len() {
            changes.push(of_bar(place, number, |bar| bar.value = 0));
            changes.push(of_bar(place, number, |bar| (bar.prefetch, bar.io16) = (false, false)));
            changes.push(of_bar(place, number, |bar| bar.size = usual_size(bar.kind).min(bar.size)));
        }
    }
    changes
}

const fn usual_size(kind: BarKind) -> u64 {
    match kind {
        BarKind::Io => 32,
        BarKind::Mem32 | BarKind::Mem64 | BarKind::Mem1m | BarKind::Rom => 4096,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::Generator;

    fn shrunk(shows: fn(&Guest) -> bool) -> Option<Guest> {
        let generator = Generator { seed: 5, devices: None };
        let guest = (0..5000).map(|number| generator.guest(number).1).find(shows)?;
        let result: Result<Guest, ()> = shrink(guest, |guests| Ok(guests.iter().map(shows).collect()));
        result.ok()
    }

    #[test]
    fn only_the_bar_and_the_region_that_matter_are_left() {
        let guest = shrunk(|guest| {
            let large = guest.devices.iter().flat_map(|device| &device.bars).any(|bar| bar.size >= 1 << 30);
            large && guest.memory_map.iter().any(|entry| entry.kind == 2)
        })
        .unwrap();
        assert_eq!((guest.devices.len(), guest.devices[0].bars.len(), guest.memory_map.len()), (1, 1, 1));
        assert_eq!(guest.xenstore.keys().collect::<Vec<_>>(), ["hvmloader/bios"]);
        assert_eq!((guest.devices[0].command, guest.profile), (0, None));
    }

    #[test]
    fn a_difference_without_devices_leaves_none() {
        let guest = shrunk(|guest| guest.phys_bits == 39).unwrap();
        assert_eq!((guest.devices.len(), guest.memory_map.len(), guest.phys_bits), (0, 0, 39));
    }
}
