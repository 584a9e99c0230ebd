// SPDX-License-Identifier: GPL-2.0-only
//! Guests made up afresh: real machines' device mixes, random ones, and the oddities that loaders trip over.
//!
//! A guest follows from the seed and its number alone, so one guest of a long run can be made again by itself.

mod catalogue;
mod devices;
mod memory;
mod oddities;

use std::collections::BTreeMap;

use fastrand::Rng;

use crate::guest::{Bdf, Device, Guest};

/// What kind of guest to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Profile {
    /// QEMU's machine with real devices.
    Real,
    /// A machine of any shape.
    Random,
    /// Reserved device memory in the way.
    Reserved,
    /// BARs that just fit, or just do not.
    Boundary,
    /// Few functions, easily understood.
    Mini,
    /// GPUs and the like, many.
    Large,
    /// Registers that are not 0 when the loader starts.
    Dirty,
    /// More I/O ports than there are.
    Ports,
    /// Very many functions.
    Stress,
    /// One particular oddity.
    Odd,
}

const PROFILES: [(Profile, &str, u32); 10] = [
    (Profile::Real, "real", 28),
    (Profile::Random, "random", 14),
    (Profile::Reserved, "rmrr", 13),
    (Profile::Boundary, "boundary", 12),
    (Profile::Mini, "mini", 9),
    (Profile::Large, "bigbars", 8),
    (Profile::Dirty, "dirty", 5),
    (Profile::Ports, "ioheavy", 3),
    (Profile::Stress, "stress", 1),
    (Profile::Odd, "weird", 12),
];

/// Makes guests from a seed.
#[derive(Clone, Copy, Debug)]
pub struct Generator {
    /// Two generators of one seed make the same guests.
    pub seed: u64,
    /// At most so many functions beside the machine's own; none leaves it to the guest's profile.
    pub devices: Option<usize>,
}

impl Generator {
    /// The guest's name, which says how to make it again, and the guest.
    pub fn guest(&self, number: u64) -> (String, Guest) {
        // Numbers that differ in a bit must not give related guests: SplitMix64's constant spreads them.
        let mut rng = Rng::with_seed(self.seed ^ number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        (format!("random-{}-{number}", self.seed), Maker { rng: &mut rng, limit: self.devices }.guest())
    }
}

/// One guest in the making.
struct Maker<'a> {
    rng: &'a mut Rng,
    limit: Option<usize>,
}

impl Maker<'_> {
    /// True in `percent` of a hundred cases.
    fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(..100) < percent
    }

    fn pick<T: Copy>(&mut self, from: &[T], otherwise: T) -> T {
        self.rng.choice(from).copied().unwrap_or(otherwise)
    }

    /// A power of two from 2^`least` to 2^`most`.
    fn power(&mut self, least: u32, most: u32) -> u64 {
        1 << self.rng.u32(least..=most)
    }

    fn profile(&mut self) -> (Profile, &'static str) {
        let total: u32 = PROFILES.iter().map(|(_, _, weight)| weight).sum();
        let mut at = self.rng.u32(..total);
        for (profile, name, weight) in PROFILES {
            match at.checked_sub(weight) {
                Some(rest) => at = rest,
                None => return (profile, name),
            }
        }
        (Profile::Real, "real")
    }

    fn guest(&mut self) -> Guest {
        let (profile, name) = self.profile();
        let mut guest = Guest {
            phys_bits: self.pick(&[46, 46, 46, 48, 48, 39, 39, 40, 36, 43, 52, 38, 42], 46),
            cpuid_max_ext: None,
            low_mem_pgend: 0,
            high_mem_pgend: 0,
            memory_map: Vec::new(),
            profile: Some(name.to_owned()),
            weird: None,
            xenstore: self.keys(),
            devices: Vec::new(),
            device_model_memory: Vec::new(),
        };
        if self.chance(4) {
            guest.cpuid_max_ext =
                Some(self.pick(&[0, 0x8000_0000, 0x8000_0004, 0x8000_0007, 0x8000_0008, 0x8000_0020], 0));
        }
        if self.chance(1) {
            guest.phys_bits = self.rng.u8(32..36);
        }
        self.ram(&mut guest);
        guest.devices = match profile {
            Profile::Mini => self.few_functions(),
            Profile::Random if self.chance(50) => self.random_functions(6),
            _ => self.machine(),
        };
        self.populate(profile, &mut guest);
        if profile == Profile::Reserved || profile == Profile::Odd && self.chance(15) || self.chance(5) {
            self.reserved_memory(&mut guest);
        }
        if profile == Profile::Odd {
            self.oddity(&mut guest);
        }
        if profile == Profile::Dirty {
            self.dirty(&mut guest.devices);
        }
        // What a description's order is must not matter.
        if self.chance(40) {
            self.rng.shuffle(&mut guest.devices);
        }
        guest
    }

    /// The functions beside the machine's own.
    fn populate(&mut self, profile: Profile, guest: &mut Guest) {
        let wanted = match profile {
            Profile::Mini => 0,
            Profile::Real | Profile::Dirty | Profile::Odd => self.rng.usize(0..7),
            Profile::Random | Profile::Reserved | Profile::Boundary => self.rng.usize(1..9),
            Profile::Large => self.rng.usize(2..10),
            Profile::Ports => self.rng.usize(6..24),
            Profile::Stress => self.rng.usize(20..90),
        };
        for _ in 0..self.limit.map_or(wanted, |limit| limit.min(wanted)) {
            let Some(bdf) = self.free_place(&guest.devices, profile == Profile::Stress) else { break };
            let device = match profile {
                Profile::Real | Profile::Dirty | Profile::Odd => self.real_device(bdf),
                Profile::Large => self.large_device(bdf),
                Profile::Ports => self.port_device(bdf),
                Profile::Boundary => self.boundary_device(bdf),
                _ if self.chance(35) => self.real_device(bdf),
                _ => self.random_device(bdf),
            };
            self.add_with_functions(device, &mut guest.devices);
        }
    }

    /// A place for one more function: most often function 0 of a free slot.
    fn free_place(&mut self, devices: &[Device], anywhere: bool) -> Option<Bdf> {
        let taken = |bdf: Bdf| devices.iter().any(|device| device.bdf == bdf);
        let slot_taken = |slot: u8| devices.iter().any(|device| device.bdf.slot() == slot);
        let scattered = anywhere || self.chance(15);
        if scattered {
            let bdf = Bdf::on_root(self.rng.u8(4..32), self.rng.u8(0..8));
            return (!taken(bdf)).then_some(bdf);
        }
        (4..32).find(|slot| !slot_taken(*slot)).map(|slot| Bdf::on_root(slot, 0))
    }

    /// Adds the device, and now and then more functions in its slot.
    fn add_with_functions(&mut self, mut device: Device, devices: &mut Vec<Device>) {
        let more = if device.bdf.function() == 0 && self.chance(15) { self.rng.u8(1..4) } else { 0 };
        if more > 0 {
            device.header |= 0x80;
        }
        let slot = device.bdf.slot();
        devices.push(device);
        for function in 1..=more {
            let bdf = Bdf::on_root(slot, function);
            if devices.iter().all(|device| device.bdf != bdf) {
                let device = self.random_device(bdf);
                devices.push(device);
            }
        }
    }

    /// The xenstore keys, in the odd forms that a person or a tool may write them in.
    fn keys(&mut self) -> BTreeMap<String, String> {
        let mut keys = BTreeMap::new();
        let mut put = |key: &str, value: String| keys.insert(key.to_owned(), value);
        put("hvmloader/bios", self.pick(&["seabios", "ovmf"], "seabios").to_owned());
        if self.chance(90) {
            let odd = [
                "",
                "false",
                "true",
                "2",
                " 0",
                "00",
                "08",
                "0x0",
                "0X1",
                "0x1",
                "256",
                "-1",
                "01",
                "4294967296",
            ];
            let value = match self.rng.u32(..100) {
                0..70 => "0",
                70..97 => "1",
                _ => self.pick(&odd, "2"),
            };
            put("hvmloader/allow-memory-relocate", value.to_owned());
        }
        if self.chance(30) {
            let size = self.hole();
            put("platform/mmio_hole_size", size);
        }
        if self.chance(15) {
            put(
                "hvmloader/pci/xen-platform-pci-bar-uc",
                self.pick(&["0", "1", "", "0x0", "yes"], "0").to_owned(),
            );
        }
        keys
    }

    /// A value of platform/mmio_hole_size: bytes, decimal as libxl writes them, or not.
    fn hole(&mut self) -> String {
        let odd = [
            "",
            "0",
            "-1",
            "1",
            "1G",
            "08",
            "268435455",
            "4294967295",
            "4294967296",
            "4294967297",
            "1073741825",
            "1073745920",
            "010000000000",
            "0X40000000",
            "1073741824k",
            "99999999999999999999",
            "18446744073709551615",
            "-268435456",
            " 1073741824",
            "+536870912",
            "0x",
        ];
        let mib =
            self.pick(&[256, 288, 300, 384, 512, 768, 1000, 1024, 1536, 2048, 2560, 3072, 3840], 512) << 20;
        match self.rng.u32(..100) {
            0..55 => mib.to_string(),
            55..65 => format!("{mib:#x}"),
            65..77 => (self.rng.u64(128..2048) << 21).to_string(),
            77..85 => (self.rng.u64(0x1_0000..0xf_0000) << 12).to_string(),
            85..90 => self.rng.u64(0x1000_0000..0xc000_0000).to_string(),
            90..93 => format!("{:#x}", self.rng.u64(0x1000_0000..0xc000_0000)),
            _ => self.pick(&odd, "0").to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::BarKind;

    fn guests(seed: u64) -> Vec<Guest> {
        let generator = Generator { seed, devices: None };
        (0..2000).map(|number| generator.guest(number).1).collect()
    }

    #[test]
    fn a_seed_makes_the_same_guests_and_another_seed_others() {
        assert_eq!(guests(7), guests(7));
        assert_ne!(guests(7), guests(8));
    }

    #[test]
    fn guests_have_the_corpus_s_variety() {
        let guests = guests(1);
        let some =
            |what: &str, test: fn(&Guest) -> bool| assert!(guests.iter().any(test), "no guest has {what}");
        let bars =
            |guest: &Guest| guest.devices.iter().flat_map(|device| device.bars.clone()).collect::<Vec<_>>();
        for (_, name, _) in PROFILES {
            assert!(guests.iter().any(|guest| guest.profile.as_deref() == Some(name)), "no {name}");
        }
        some("RAM above 4 GiB", |guest| guest.high_mem_pgend > 0x10_0000);
        some("none there", |guest| guest.high_mem_pgend == 0);
        some("reserved memory above 4 GiB", |guest| {
            guest.memory_map.iter().any(|e| e.kind == 2 && e.addr >> 32 != 0)
        });
        some("reserved memory below", |guest| {
            guest.memory_map.iter().any(|e| e.kind == 2 && e.addr >> 32 == 0)
        });
        some("raw registers", |guest| guest.devices.iter().any(|device| !device.raw.is_empty()));
        some("36 bits by CPUID's lack", |guest| guest.cpuid_max_ext.is_some_and(|leaf| leaf < 0x8000_0008));
        for kind in [BarKind::Mem32, BarKind::Mem64, BarKind::Mem1m, BarKind::Io, BarKind::Rom] {
            assert!(guests.iter().any(|guest| bars(guest).iter().any(|bar| bar.kind == kind)), "no {kind:?}");
        }
        assert!(
            guests
                .iter()
                .any(|guest| bars(guest).iter().any(|bar| bar.size < 4096 && bar.kind == BarKind::Mem32))
        );
    }

    #[test]
    fn no_two_functions_share_a_place_and_no_two_bars_a_register() {
        for guest in guests(3) {
            let mut places: Vec<Bdf> = guest.devices.iter().map(|device| device.bdf).collect();
            places.sort();
            places.dedup();
            assert_eq!(places.len(), guest.devices.len(), "{guest:?}");
            for device in &guest.devices {
                let dwords = |bar: &crate::guest::Bar| {
                    if bar.kind == BarKind::Mem64 { vec![bar.reg, bar.reg + 4] } else { vec![bar.reg] }
                };
                let mut registers: Vec<u8> = device.bars.iter().flat_map(dwords).collect();
                let count = registers.len();
                registers.sort_unstable();
                registers.dedup();
                assert_eq!(registers.len(), count, "{device:?}");
                assert!(device.bars.iter().all(|bar| bar.size.is_power_of_two()));
            }
        }
    }

    #[test]
    fn the_number_of_functions_can_be_limited() {
        let guest = Generator { seed: 1, devices: Some(0) };
        assert!((0..200).all(|number| guest.guest(number).1.devices.len() < 12));
    }
}
