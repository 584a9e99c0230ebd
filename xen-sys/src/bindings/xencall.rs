// SPDX-License-Identifier: LGPL-2.1-or-later
// Written by xen-sys/generate; edit that.
#[repr(C)]
#[derive(Debug)]
pub struct xentoollog_logger {
    _unused: [u8; 0],
}
#[repr(C)]
#[derive(Debug)]
pub struct xencall_handle {
    _unused: [u8; 0],
}
pub struct LibXencall {
    __library: ::libloading::Library,
    pub xencall_open: unsafe extern "C" fn(
        logger: *mut xentoollog_logger,
        open_flags: ::std::os::raw::c_uint,
    ) -> *mut xencall_handle,
    pub xencall_close: unsafe extern "C" fn(xcall: *mut xencall_handle) -> ::std::os::raw::c_int,
    pub xencall2: unsafe extern "C" fn(
        xcall: *mut xencall_handle,
        op: ::std::os::raw::c_uint,
        arg1: u64,
        arg2: u64,
    ) -> ::std::os::raw::c_int,
    pub xencall_alloc_buffer:
        unsafe extern "C" fn(xcall: *mut xencall_handle, size: usize) -> *mut ::std::os::raw::c_void,
    pub xencall_free_buffer: unsafe extern "C" fn(xcall: *mut xencall_handle, p: *mut ::std::os::raw::c_void),
}
impl LibXencall {
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
        let xencall_open = unsafe { __library.get(b"xencall_open\0") }.map(|sym| *sym)?;
        let xencall_close = unsafe { __library.get(b"xencall_close\0") }.map(|sym| *sym)?;
        let xencall2 = unsafe { __library.get(b"xencall2\0") }.map(|sym| *sym)?;
        let xencall_alloc_buffer = unsafe { __library.get(b"xencall_alloc_buffer\0") }.map(|sym| *sym)?;
        let xencall_free_buffer = unsafe { __library.get(b"xencall_free_buffer\0") }.map(|sym| *sym)?;
        Ok(LibXencall {
            __library,
            xencall_open,
            xencall_close,
            xencall2,
            xencall_alloc_buffer,
            xencall_free_buffer,
        })
    }
    pub unsafe fn xencall_open(
        &self,
        logger: *mut xentoollog_logger,
        open_flags: ::std::os::raw::c_uint,
    ) -> *mut xencall_handle {
        unsafe { (self.xencall_open)(logger, open_flags) }
    }
    pub unsafe fn xencall_close(&self, xcall: *mut xencall_handle) -> ::std::os::raw::c_int {
        unsafe { (self.xencall_close)(xcall) }
    }
    pub unsafe fn xencall2(
        &self,
        xcall: *mut xencall_handle,
        op: ::std::os::raw::c_uint,
        arg1: u64,
        arg2: u64,
    ) -> ::std::os::raw::c_int {
        unsafe { (self.xencall2)(xcall, op, arg1, arg2) }
    }
    pub unsafe fn xencall_alloc_buffer(
        &self,
        xcall: *mut xencall_handle,
        size: usize,
    ) -> *mut ::std::os::raw::c_void {
        unsafe { (self.xencall_alloc_buffer)(xcall, size) }
    }
    pub unsafe fn xencall_free_buffer(&self, xcall: *mut xencall_handle, p: *mut ::std::os::raw::c_void) {
        unsafe { (self.xencall_free_buffer)(xcall, p) }
    }
}
