// SPDX-License-Identifier: LGPL-2.1-or-later
// Written by xen-sys/generate; edit that.
pub const __HYPERVISOR_memory_op: u32 = 12;
pub const XENMEM_reserved_device_memory_map: u32 = 27;
pub const XENMEM_RDM_ALL: u32 = 1;
pub const HVM_INFO_PFN: u32 = 159;
pub const HVM_INFO_OFFSET: u32 = 2048;
pub const HVM_MAX_VCPUS: u32 = 128;
pub const HVM_E820_PAGE: u32 = 589824;
pub const HVM_E820_NR_OFFSET: u32 = 488;
pub const HVM_E820_OFFSET: u32 = 720;
pub const HVM_BELOW_4G_RAM_END: u32 = 4026531840;
pub const HVM_BELOW_4G_MMIO_START: u32 = 4026531840;
pub const HVM_XS_HVMLOADER: &[u8; 10] = b"hvmloader\0";
pub const HVM_XS_BIOS: &[u8; 15] = b"hvmloader/bios\0";
pub const HVM_XS_ALLOW_MEMORY_RELOCATE: &[u8; 32] = b"hvmloader/allow-memory-relocate\0";
pub const XENSTORE_PAYLOAD_MAX: u32 = 4096;
pub const XENSTORE_ABS_PATH_MAX: u32 = 3072;
pub const XENSTORE_REL_PATH_MAX: u32 = 2048;
pub type xen_pfn_t = ::std::os::raw::c_ulong;
pub type xen_ulong_t = ::std::os::raw::c_ulong;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct physdev_pci_device {
    pub seg: u16,
    pub bus: u8,
    pub devfn: u8,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of physdev_pci_device"][::std::mem::size_of::<physdev_pci_device>() - 4usize];
    ["Alignment of physdev_pci_device"][::std::mem::align_of::<physdev_pci_device>() - 2usize];
    ["Offset of field: physdev_pci_device::seg"][::std::mem::offset_of!(physdev_pci_device, seg) - 0usize];
    ["Offset of field: physdev_pci_device::bus"][::std::mem::offset_of!(physdev_pci_device, bus) - 2usize];
    ["Offset of field: physdev_pci_device::devfn"]
        [::std::mem::offset_of!(physdev_pci_device, devfn) - 3usize];
};
pub type physdev_pci_device_t = physdev_pci_device;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct xen_reserved_device_memory {
    pub start_pfn: xen_pfn_t,
    pub nr_pages: xen_ulong_t,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of xen_reserved_device_memory"][::std::mem::size_of::<xen_reserved_device_memory>() - 16usize];
    ["Alignment of xen_reserved_device_memory"]
        [::std::mem::align_of::<xen_reserved_device_memory>() - 8usize];
    ["Offset of field: xen_reserved_device_memory::start_pfn"]
        [::std::mem::offset_of!(xen_reserved_device_memory, start_pfn) - 0usize];
    ["Offset of field: xen_reserved_device_memory::nr_pages"]
        [::std::mem::offset_of!(xen_reserved_device_memory, nr_pages) - 8usize];
};
pub type xen_reserved_device_memory_t = xen_reserved_device_memory;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct __guest_handle_xen_reserved_device_memory_t {
    pub p: *mut xen_reserved_device_memory_t,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of __guest_handle_xen_reserved_device_memory_t"]
        [::std::mem::size_of::<__guest_handle_xen_reserved_device_memory_t>() - 8usize];
    ["Alignment of __guest_handle_xen_reserved_device_memory_t"]
        [::std::mem::align_of::<__guest_handle_xen_reserved_device_memory_t>() - 8usize];
    ["Offset of field: __guest_handle_xen_reserved_device_memory_t::p"]
        [::std::mem::offset_of!(__guest_handle_xen_reserved_device_memory_t, p) - 0usize];
};
#[repr(C)]
#[derive(Copy, Clone)]
pub struct xen_reserved_device_memory_map {
    pub flags: u32,
    pub nr_entries: ::std::os::raw::c_uint,
    pub buffer: __guest_handle_xen_reserved_device_memory_t,
    pub dev: xen_reserved_device_memory_map__bindgen_ty_1,
}
#[repr(C)]
#[derive(Copy, Clone)]
pub union xen_reserved_device_memory_map__bindgen_ty_1 {
    pub pci: physdev_pci_device_t,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of xen_reserved_device_memory_map__bindgen_ty_1"]
        [::std::mem::size_of::<xen_reserved_device_memory_map__bindgen_ty_1>() - 4usize];
    ["Alignment of xen_reserved_device_memory_map__bindgen_ty_1"]
        [::std::mem::align_of::<xen_reserved_device_memory_map__bindgen_ty_1>() - 2usize];
    ["Offset of field: xen_reserved_device_memory_map__bindgen_ty_1::pci"]
        [::std::mem::offset_of!(xen_reserved_device_memory_map__bindgen_ty_1, pci) - 0usize];
};
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of xen_reserved_device_memory_map"]
        [::std::mem::size_of::<xen_reserved_device_memory_map>() - 24usize];
    ["Alignment of xen_reserved_device_memory_map"]
        [::std::mem::align_of::<xen_reserved_device_memory_map>() - 8usize];
    ["Offset of field: xen_reserved_device_memory_map::flags"]
        [::std::mem::offset_of!(xen_reserved_device_memory_map, flags) - 0usize];
    ["Offset of field: xen_reserved_device_memory_map::nr_entries"]
        [::std::mem::offset_of!(xen_reserved_device_memory_map, nr_entries) - 4usize];
    ["Offset of field: xen_reserved_device_memory_map::buffer"]
        [::std::mem::offset_of!(xen_reserved_device_memory_map, buffer) - 8usize];
    ["Offset of field: xen_reserved_device_memory_map::dev"]
        [::std::mem::offset_of!(xen_reserved_device_memory_map, dev) - 16usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct hvm_info_table {
    pub signature: [::std::os::raw::c_char; 8usize],
    pub length: u32,
    pub checksum: u8,
    pub apic_mode: u8,
    pub nr_vcpus: u32,
    pub low_mem_pgend: u32,
    pub reserved_mem_pgstart: u32,
    pub high_mem_pgend: u32,
    pub vcpu_online: [u8; 16usize],
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of hvm_info_table"][::std::mem::size_of::<hvm_info_table>() - 48usize];
    ["Alignment of hvm_info_table"][::std::mem::align_of::<hvm_info_table>() - 4usize];
    ["Offset of field: hvm_info_table::signature"]
        [::std::mem::offset_of!(hvm_info_table, signature) - 0usize];
    ["Offset of field: hvm_info_table::length"][::std::mem::offset_of!(hvm_info_table, length) - 8usize];
    ["Offset of field: hvm_info_table::checksum"][::std::mem::offset_of!(hvm_info_table, checksum) - 12usize];
    ["Offset of field: hvm_info_table::apic_mode"]
        [::std::mem::offset_of!(hvm_info_table, apic_mode) - 13usize];
    ["Offset of field: hvm_info_table::nr_vcpus"][::std::mem::offset_of!(hvm_info_table, nr_vcpus) - 16usize];
    ["Offset of field: hvm_info_table::low_mem_pgend"]
        [::std::mem::offset_of!(hvm_info_table, low_mem_pgend) - 20usize];
    ["Offset of field: hvm_info_table::reserved_mem_pgstart"]
        [::std::mem::offset_of!(hvm_info_table, reserved_mem_pgstart) - 24usize];
    ["Offset of field: hvm_info_table::high_mem_pgend"]
        [::std::mem::offset_of!(hvm_info_table, high_mem_pgend) - 28usize];
    ["Offset of field: hvm_info_table::vcpu_online"]
        [::std::mem::offset_of!(hvm_info_table, vcpu_online) - 32usize];
};
