//! Where this library was loaded from.

use std::path::PathBuf;

/// The folder of the shared library that holds this function, if the system tells.
#[cfg(unix)]
pub fn library_folder() -> Option<PathBuf> {
    use std::ffi::{CStr, OsStr};
    use std::os::unix::ffi::OsStrExt;

    let here = library_folder as fn() -> Option<PathBuf>;
    let mut about = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    // SAFETY: the address is of a function of this library, `about` is ours to be written.
    let found = unsafe { libc::dladdr(here as *const libc::c_void, &mut about) };
    if found == 0 || about.dli_fname.is_null() {
        return None;
    }
    // SAFETY: the loader's own string, which ends with NUL and stays while the library does.
    let name = unsafe { CStr::from_ptr(about.dli_fname) };
    let path = PathBuf::from(OsStr::from_bytes(name.to_bytes()));
    path.canonicalize().ok()?.parent().map(PathBuf::from)
}

/// Not asked for yet: the other places of the search still serve.
#[cfg(not(unix))]
pub fn library_folder() -> Option<PathBuf> {
    None
}
