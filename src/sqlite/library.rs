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
    if is_the_program(about.dli_fbase) {
        // Its name is what the shell was given, which may not lead there.
        return std::env::current_exe().ok()?.canonicalize().ok()?.parent().map(PathBuf::from);
    }
    // SAFETY: the loader's own string, which ends with NUL and stays while the library does.
    let name = unsafe { CStr::from_ptr(about.dli_fname) };
    let path = PathBuf::from(OsStr::from_bytes(name.to_bytes()));
    path.canonicalize().ok()?.parent().map(PathBuf::from)
}

/// Whether the file that was mapped there is the program itself, which this crate is linked into.
#[cfg(target_os = "linux")]
fn is_the_program(base: *mut libc::c_void) -> bool {
    let mut about = libc::Dl_info {
        dli_fname: std::ptr::null(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    // SAFETY: the kernel tells every process where its program's headers lie; `about` is ours.
    let found = unsafe { libc::dladdr(libc::getauxval(libc::AT_PHDR) as *const _, &mut about) };
    found != 0 && about.dli_fbase == base
}

/// Elsewhere the loader gives the program's full path.
#[cfg(all(unix, not(target_os = "linux")))]
fn is_the_program(_: *mut libc::c_void) -> bool {
    false
}

/// Not asked for yet: the other places of the search still serve.
#[cfg(not(unix))]
pub fn library_folder() -> Option<PathBuf> {
    None
}
