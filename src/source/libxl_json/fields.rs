// SPDX-License-Identifier: LGPL-2.1-or-later
//! The fields of libxl_types.idl that decide about a guest's PCI layout, and the names of those that do not.

use serde::Deserialize;
use serde::de::Deserializer;

/// libxl_defbool: absent where it is at its default.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) enum DefBool {
    #[default]
    #[serde(rename = "<default>")]
    Default,
    True,
    False,
}

impl DefBool {
    pub(super) fn get(self) -> Option<bool> {
        match self {
            Self::Default => None,
            Self::True => Some(true),
            Self::False => Some(false),
        }
    }
}

/// An enumeration's word, in lower case as libxl compares it; `None` for `null` and where it is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Word(pub(super) Option<String>);

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Option::<String>::deserialize(deserializer)?.map(|word| word.to_ascii_lowercase())))
    }
}

impl Word {
    pub(super) fn get(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Domain {
    pub(super) config: Option<Box<Domain>>,
    pub(super) c_info: CreateInfo,
    pub(super) b_info: BuildInfo,
    pub(super) disks: Vec<DiskFields>,
    pub(super) nics: Vec<NicFields>,
    pub(super) pcidevs: Vec<PciFields>,
    pub(super) rdms: Vec<FoundRdmFields>,
    pub(super) usbctrls: Vec<UsbctrlFields>,
    pub(super) usbdevs: Vec<UsbdevFields>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CreateInfo {
    pub(super) r#type: Word,
    pub(super) name: Option<String>,
    pub(super) hap: DefBool,
    pub(super) passthrough: Word,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct BuildInfo {
    pub(super) r#type: Word,
    pub(super) max_memkb: Option<u64>,
    pub(super) target_memkb: Option<u64>,
    pub(super) video_memkb: Option<u64>,
    pub(super) acpi: DefBool,
    pub(super) device_model_version: Word,
    pub(super) device_model_stubdomain: DefBool,
    pub(super) extra: Vec<String>,
    pub(super) extra_hvm: Vec<String>,
    pub(super) arch_arm: serde_json::Map<String, serde_json::Value>,
    #[serde(rename = "type.hvm")]
    pub(super) hvm: HvmFields,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct HvmFields {
    pub(super) bios: Word,
    pub(super) acpi: DefBool,
    pub(super) mmio_hole_memkb: Option<u64>,
    /// libxl with our series: the hole is what a layout needed, not what the administrator asked for.
    pub(super) mmio_hole_computed: bool,
    pub(super) hdtype: Word,
    pub(super) vga: VgaFields,
    pub(super) spice: SpiceFields,
    pub(super) gfx_passthru: DefBool,
    pub(super) usb: DefBool,
    pub(super) usbversion: i64,
    pub(super) usbdevice: Option<String>,
    pub(super) usbdevice_list: Vec<String>,
    pub(super) soundhw: Option<String>,
    pub(super) xen_platform_pci: DefBool,
    pub(super) xen_platform_pci_bar_uc: DefBool,
    pub(super) vendor_device: Word,
    pub(super) rdm: RdmFields,
    pub(super) rdm_mem_boundary_memkb: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct VgaFields {
    pub(super) kind: Word,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SpiceFields {
    pub(super) enable: DefBool,
    pub(super) vdagent: DefBool,
    pub(super) usbredirection: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RdmFields {
    pub(super) strategy: Word,
    pub(super) policy: Word,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct DiskFields {
    pub(super) vdev: String,
    pub(super) is_cdrom: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NicFields {
    pub(super) nictype: Word,
    pub(super) model: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PciFields {
    pub(super) domain: u32,
    pub(super) bus: u8,
    pub(super) dev: u8,
    pub(super) func: u8,
    pub(super) vdevfn: u32,
    pub(super) vfunc_mask: u32,
    pub(super) msitranslate: bool,
    pub(super) power_mgmt: bool,
    pub(super) permissive: bool,
    pub(super) seize: bool,
    pub(super) rdm_policy: Word,
    pub(super) name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct FoundRdmFields {
    pub(super) start: u64,
    pub(super) size: u64,
    pub(super) policy: Word,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct UsbctrlFields {
    pub(super) r#type: Word,
    pub(super) version: i64,
    pub(super) ports: usize,
}

#[derive(Debug, Deserialize)]
#[serde(default)]
pub(super) struct UsbdevFields {
    pub(super) ctrl: i64,
}

impl Default for UsbdevFields {
    fn default() -> Self {
        Self { ctrl: -1 }
    }
}

/// Fields of libxl_types.idl, Xen 4.13 to 4.22, that say nothing about a guest's PCI layout, by what stands before them.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    (
        "",
        "domid dtdevs vfbs vkbs vtpms p9s pvcallsifs vdispls vsnds channels virtios on_poweroff \
         on_reboot on_watchdog on_crash on_soft_reset",
    ),
    (
        "c_info.",
        "oos ssidref ssid_label domid uuid xsdata platformdata poolid pool_name run_hotplug_scripts \
         driver_domain xend_suspend_evtchn_compat",
    ),
    (
        "b_info.",
        "max_vcpus avail_vcpus cpumap nodemap vcpu_hard_affinity vcpu_soft_affinity numa_placement tsc_mode \
         shadow_memkb iommu_memkb rtc_timeoffset exec_ssidref exec_ssid_label localtime disable_migrate cpuid \
         blkdev_start vnuma_nodes max_grant_frames max_maptrack_frames max_grant_version stubdomain_memkb \
         stubdomain_kernel stubdomain_cmdline stubdomain_ramdisk device_model device_model_ssidref \
         device_model_ssid_label device_model_user extra_pv sched_params ioports irqs iomem claim_mode \
         event_channels kernel cmdline ramdisk device_tree bootloader bootloader_args bootloader_restrict \
         bootloader_user timer_mode nested_hvm apic dm_restrict tee arch_x86 altp2m altp2m_count \
         vmtrace_buf_kb vpmu llc_colors trap_unmapped_accesses xenstore_feature_mask xenstore_quota type.pv \
         type.pvh type.invalid",
    ),
    (
        "b_info.type.hvm.",
        "firmware pae apic acpi_s3 acpi_s4 acpi_laptop_slate nx viridian viridian_enable viridian_disable \
         timeoffset hpet vpt_align pci_layout pci_layout_args pci_layout_data timer_mode nested_hvm altp2m system_firmware smbios_firmware smbios \
         acpi_firmware nographic vnc keymap sdl gfx_passthru_kind serial serial_list boot vkb_device \
         ms_vm_genid mca_caps pirq",
    ),
    (
        "b_info.type.hvm.spice.",
        "port tls_port host disable_ticketing passwd agent_mouse clipboard_sharing image_compression \
         streaming_video",
    ),
    (
        "disks.",
        "backend_domid backend_domname pdev_path backend format script removable readwrite direct_io_safe \
         discard_enable specification transport irq base colo_enable colo_restore_enable colo_host colo_port \
         colo_export active_disk hidden_disk trusted grant_usage",
    ),
    (
        "nics.",
        "backend_domid backend_domname devid mtu mac ip bridge ifname script rate_bytes_per_interval \
         rate_interval_usecs gatewaydev trusted coloft_forwarddev colo_sock_mirror_id colo_sock_mirror_ip \
         colo_sock_mirror_port colo_sock_compare_pri_in_id colo_sock_compare_pri_in_ip \
         colo_sock_compare_pri_in_port colo_sock_compare_sec_in_id colo_sock_compare_sec_in_ip \
         colo_sock_compare_sec_in_port colo_sock_compare_notify_id colo_sock_compare_notify_ip \
         colo_sock_compare_notify_port colo_sock_redirector0_id colo_sock_redirector0_ip \
         colo_sock_redirector0_port colo_sock_redirector1_id colo_sock_redirector1_ip \
         colo_sock_redirector1_port colo_sock_redirector2_id colo_sock_redirector2_ip \
         colo_sock_redirector2_port colo_filter_mirror_queue colo_filter_mirror_outdev \
         colo_filter_redirector0_queue colo_filter_redirector0_indev colo_filter_redirector0_outdev \
         colo_filter_redirector1_queue colo_filter_redirector1_indev colo_filter_redirector1_outdev \
         colo_compare_pri_in colo_compare_sec_in colo_compare_out colo_compare_notify_dev \
         colo_sock_sec_redirector0_id colo_sock_sec_redirector0_ip colo_sock_sec_redirector0_port \
         colo_sock_sec_redirector1_id colo_sock_sec_redirector1_ip colo_sock_sec_redirector1_port \
         colo_filter_sec_redirector0_queue colo_filter_sec_redirector0_indev \
         colo_filter_sec_redirector0_outdev colo_filter_sec_redirector1_queue \
         colo_filter_sec_redirector1_indev colo_filter_sec_redirector1_outdev colo_filter_sec_rewriter0_queue \
         colo_checkpoint_host colo_checkpoint_port",
    ),
    ("usbctrls.", "devid backend_domid backend_domname"),
    ("usbdevs.", "port type type.hostdev"),
];

/// Whether a field is known to say nothing about a guest's PCI layout.
pub(super) fn without_effect(path: &str) -> bool {
    WITHOUT_EFFECT.iter().any(|(before, names)| {
        path.strip_prefix(before).is_some_and(|name| names.split_whitespace().any(|known| known == name))
    })
}
