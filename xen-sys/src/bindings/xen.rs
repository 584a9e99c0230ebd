// SPDX-License-Identifier: LGPL-2.1-or-later
// Written by xen-sys/generate; edit that.
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
