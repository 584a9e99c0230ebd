// SPDX-License-Identifier: LGPL-2.1-or-later
// Written by xen-sys/generate; edit that.
pub const XS_PERM_NONE: u32 = 0;
pub const XS_PERM_READ: u32 = 1;
pub const XS_PERM_WRITE: u32 = 2;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct xs_permissions {
    pub id: ::std::os::raw::c_uint,
    pub perms: ::std::os::raw::c_uint,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of xs_permissions"][::std::mem::size_of::<xs_permissions>() - 8usize];
    ["Alignment of xs_permissions"][::std::mem::align_of::<xs_permissions>() - 4usize];
    ["Offset of field: xs_permissions::id"][::std::mem::offset_of!(xs_permissions, id) - 0usize];
    ["Offset of field: xs_permissions::perms"][::std::mem::offset_of!(xs_permissions, perms) - 4usize];
};
#[repr(C)]
#[derive(Debug)]
pub struct xs_handle {
    _unused: [u8; 0],
}
pub type xs_transaction_t = u32;
pub struct LibXenstore {
    __library: ::libloading::Library,
    pub xs_open: unsafe extern "C" fn(flags: ::std::os::raw::c_ulong) -> *mut xs_handle,
    pub xs_close: unsafe extern "C" fn(xsh: *mut xs_handle),
    pub xs_directory: unsafe extern "C" fn(
        h: *mut xs_handle,
        t: xs_transaction_t,
        path: *const ::std::os::raw::c_char,
        num: *mut ::std::os::raw::c_uint,
    ) -> *mut *mut ::std::os::raw::c_char,
    pub xs_read: unsafe extern "C" fn(
        h: *mut xs_handle,
        t: xs_transaction_t,
        path: *const ::std::os::raw::c_char,
        len: *mut ::std::os::raw::c_uint,
    ) -> *mut ::std::os::raw::c_void,
    pub xs_write: unsafe extern "C" fn(
        h: *mut xs_handle,
        t: xs_transaction_t,
        path: *const ::std::os::raw::c_char,
        data: *const ::std::os::raw::c_void,
        len: ::std::os::raw::c_uint,
    ) -> bool,
    pub xs_mkdir: unsafe extern "C" fn(
        h: *mut xs_handle,
        t: xs_transaction_t,
        path: *const ::std::os::raw::c_char,
    ) -> bool,
    pub xs_rm: unsafe extern "C" fn(
        h: *mut xs_handle,
        t: xs_transaction_t,
        path: *const ::std::os::raw::c_char,
    ) -> bool,
    pub xs_get_permissions: unsafe extern "C" fn(
        h: *mut xs_handle,
        t: xs_transaction_t,
        path: *const ::std::os::raw::c_char,
        num: *mut ::std::os::raw::c_uint,
    ) -> *mut xs_permissions,
    pub xs_set_permissions: unsafe extern "C" fn(
        h: *mut xs_handle,
        t: xs_transaction_t,
        path: *const ::std::os::raw::c_char,
        perms: *mut xs_permissions,
        num_perms: ::std::os::raw::c_uint,
    ) -> bool,
    pub xs_transaction_start: unsafe extern "C" fn(h: *mut xs_handle) -> xs_transaction_t,
    pub xs_transaction_end: unsafe extern "C" fn(h: *mut xs_handle, t: xs_transaction_t, abort: bool) -> bool,
    pub xs_is_domain_introduced:
        unsafe extern "C" fn(h: *mut xs_handle, domid: ::std::os::raw::c_uint) -> bool,
}
impl LibXenstore {
    pub unsafe fn new<P>(path: P) -> Result<Self, ::libloading::Error>
    where
        P: AsRef<::std::ffi::OsStr>,
    {
        let path = path.as_ref();
        let library = unsafe { ::libloading::Library::new(path) }?;
        unsafe { Self::from_library(library) }
    }
    pub unsafe fn from_library<L>(library: L) -> Result<Self, ::libloading::Error>
    where
        L: Into<::libloading::Library>,
    {
        let __library = library.into();
        let xs_open = unsafe { __library.get(b"xs_open\0") }.map(|sym| *sym)?;
        let xs_close = unsafe { __library.get(b"xs_close\0") }.map(|sym| *sym)?;
        let xs_directory = unsafe { __library.get(b"xs_directory\0") }.map(|sym| *sym)?;
        let xs_read = unsafe { __library.get(b"xs_read\0") }.map(|sym| *sym)?;
        let xs_write = unsafe { __library.get(b"xs_write\0") }.map(|sym| *sym)?;
        let xs_mkdir = unsafe { __library.get(b"xs_mkdir\0") }.map(|sym| *sym)?;
        let xs_rm = unsafe { __library.get(b"xs_rm\0") }.map(|sym| *sym)?;
        let xs_get_permissions = unsafe { __library.get(b"xs_get_permissions\0") }.map(|sym| *sym)?;
        let xs_set_permissions = unsafe { __library.get(b"xs_set_permissions\0") }.map(|sym| *sym)?;
        let xs_transaction_start = unsafe { __library.get(b"xs_transaction_start\0") }.map(|sym| *sym)?;
        let xs_transaction_end = unsafe { __library.get(b"xs_transaction_end\0") }.map(|sym| *sym)?;
        let xs_is_domain_introduced =
            unsafe { __library.get(b"xs_is_domain_introduced\0") }.map(|sym| *sym)?;
        Ok(LibXenstore {
            __library,
            xs_open,
            xs_close,
            xs_directory,
            xs_read,
            xs_write,
            xs_mkdir,
            xs_rm,
            xs_get_permissions,
            xs_set_permissions,
            xs_transaction_start,
            xs_transaction_end,
            xs_is_domain_introduced,
        })
    }
    pub unsafe fn xs_open(&self, flags: ::std::os::raw::c_ulong) -> *mut xs_handle {
        unsafe { (self.xs_open)(flags) }
    }
    pub unsafe fn xs_close(&self, xsh: *mut xs_handle) {
        unsafe { (self.xs_close)(xsh) }
    }
    pub unsafe fn xs_directory(
        &self,
        h: *mut xs_handle,
        t: xs_transaction_t,
        path: *const ::std::os::raw::c_char,
        num: *mut ::std::os::raw::c_uint,
    ) -> *mut *mut ::std::os::raw::c_char {
        unsafe { (self.xs_directory)(h, t, path, num) }
    }
    pub unsafe fn xs_read(
        &self,
        h: *mut xs_handle,
        t: xs_transaction_t,
        path: *const ::std::os::raw::c_char,
        len: *mut ::std::os::raw::c_uint,
    ) -> *mut ::std::os::raw::c_void {
        unsafe { (self.xs_read)(h, t, path, len) }
    }
    pub unsafe fn xs_write(
        &self,
        h: *mut xs_handle,
        t: xs_transaction_t,
        path: *const ::std::os::raw::c_char,
        data: *const ::std::os::raw::c_void,
        len: ::std::os::raw::c_uint,
    ) -> bool {
        unsafe { (self.xs_write)(h, t, path, data, len) }
    }
    pub unsafe fn xs_mkdir(
        &self,
        h: *mut xs_handle,
        t: xs_transaction_t,
        path: *const ::std::os::raw::c_char,
    ) -> bool {
        unsafe { (self.xs_mkdir)(h, t, path) }
    }
    pub unsafe fn xs_rm(
        &self,
        h: *mut xs_handle,
        t: xs_transaction_t,
        path: *const ::std::os::raw::c_char,
    ) -> bool {
        unsafe { (self.xs_rm)(h, t, path) }
    }
    pub unsafe fn xs_get_permissions(
        &self,
        h: *mut xs_handle,
        t: xs_transaction_t,
        path: *const ::std::os::raw::c_char,
        num: *mut ::std::os::raw::c_uint,
    ) -> *mut xs_permissions {
        unsafe { (self.xs_get_permissions)(h, t, path, num) }
    }
    pub unsafe fn xs_set_permissions(
        &self,
        h: *mut xs_handle,
        t: xs_transaction_t,
        path: *const ::std::os::raw::c_char,
        perms: *mut xs_permissions,
        num_perms: ::std::os::raw::c_uint,
    ) -> bool {
        unsafe { (self.xs_set_permissions)(h, t, path, perms, num_perms) }
    }
    pub unsafe fn xs_transaction_start(&self, h: *mut xs_handle) -> xs_transaction_t {
        unsafe { (self.xs_transaction_start)(h) }
    }
    pub unsafe fn xs_transaction_end(&self, h: *mut xs_handle, t: xs_transaction_t, abort: bool) -> bool {
        unsafe { (self.xs_transaction_end)(h, t, abort) }
    }
    pub unsafe fn xs_is_domain_introduced(&self, h: *mut xs_handle, domid: ::std::os::raw::c_uint) -> bool {
        unsafe { (self.xs_is_domain_introduced)(h, domid) }
    }
}
