//! Who may open what is made here: security descriptors in words (SDDL), and who a process or file belongs to.
//!
//! The only audience is SYSTEM and the Administrators, plus the owner of a file that a person made for himself.
#![allow(unsafe_code, reason = "the calls of the system have no safe form; each says why it is sound")]

use std::{
    ffi::{OsStr, c_void},
    io,
    os::windows::ffi::OsStrExt,
    path::Path,
    ptr,
};

use windows_sys::Win32::{
    Foundation::{CloseHandle, ERROR_SUCCESS, HANDLE, LocalFree},
    Security::{
        ACCESS_ALLOWED_ACE, ACE_HEADER, ACL,
        Authorization::{
            ConvertSidToStringSidW, ConvertStringSecurityDescriptorToSecurityDescriptorW,
            GetNamedSecurityInfoW, SDDL_REVISION_1, SE_FILE_OBJECT, SetNamedSecurityInfoW,
        },
        CheckTokenMembership, CreateWellKnownSid, DACL_SECURITY_INFORMATION, DuplicateToken, GetAce,
        GetSecurityDescriptorDacl, GetTokenInformation, INHERIT_ONLY_ACE, OWNER_SECURITY_INFORMATION,
        PROTECTED_DACL_SECURITY_INFORMATION, PSECURITY_DESCRIPTOR, PSID, SECURITY_ATTRIBUTES,
        SECURITY_MAX_SID_SIZE, SecurityIdentification, TOKEN_DUPLICATE, TOKEN_QUERY, TOKEN_USER, TokenUser,
        WinBuiltinAdministratorsSid,
    },
    System::Threading::{
        GetCurrentProcess, OpenProcess, OpenProcessToken, PROCESS_QUERY_LIMITED_INFORMATION,
    },
};

use crate::access::{Access, Entry};

/// Only SYSTEM and Administrators, for pipes.
pub const PIPE: &str = "D:P(A;;GA;;;SY)(A;;GA;;;BA)";

/// SYSTEM, Administrators, and whoever makes it without being one, for a file or folder and what will be in it; nothing comes
/// from the folder above.
///
/// # Errors
/// When the system does not say who this process is.
pub fn private() -> io::Result<Descriptor> {
    let mut sddl = "D:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)".to_owned();
    if !is_administrator(std::process::id())? {
        sddl.push_str(&format!("(A;OICI;FA;;;{})", own_sid()?));
    }
    Descriptor::new(&sddl)
}

/// An ACE that lets somebody in (`ACCESS_ALLOWED_ACE_TYPE`).
const ALLOWED: u8 = 0;

/// ACEs that let nobody in: those that keep somebody out, of every form, and those that audit, alarm, or label (`ACE_HEADER`). Any
/// other may, for one kind of object or under a condition; where its SID is we need not know, for nothing of ours has one.
const HARMLESS: [u8; 16] = [1, 2, 3, 6, 7, 8, 10, 12, 13, 14, 15, 16, 17, 18, 19, 20];

/// A security descriptor, to be named when something is made.
pub struct Descriptor {
    raw: PSECURITY_DESCRIPTOR,
    attributes: SECURITY_ATTRIBUTES,
}

impl Descriptor {
    /// The descriptor that `sddl` describes.
    ///
    /// # Errors
    /// When the system does not understand it.
    pub fn new(sddl: &str) -> io::Result<Self> {
        let text = wide(sddl);
        let mut raw: PSECURITY_DESCRIPTOR = ptr::null_mut();
        // SAFETY: `text` ends with a zero; `raw` is written before it is read; the size is not asked for.
        let done = unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(
                text.as_ptr(),
                SDDL_REVISION_1,
                &raw mut raw,
                ptr::null_mut(),
            )
        };
        if done == 0 {
            return Err(io::Error::last_os_error());
        }
        let attributes = SECURITY_ATTRIBUTES {
            nLength: size_of::<SECURITY_ATTRIBUTES>() as u32,
            lpSecurityDescriptor: raw,
            bInheritHandle: 0,
        };
        Ok(Self { raw, attributes })
    }

    /// For a call that wants `SECURITY_ATTRIBUTES`; valid as long as `self`.
    pub fn attributes(&self) -> *const SECURITY_ATTRIBUTES {
        &raw const self.attributes
    }
}

// SAFETY: it is memory that nobody changes after it was made.
unsafe impl Send for Descriptor {}
// SAFETY: as above.
unsafe impl Sync for Descriptor {}

impl std::fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Descriptor")
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: it was allocated by the conversion, which says to free it so; nobody uses it any more.
        unsafe { LocalFree(self.raw) };
    }
}

/// Who may do something with the file or folder at `path`, as the file system says.
///
/// # Errors
/// When there is no such file, or it cannot be looked at.
pub fn access_of(path: &Path) -> io::Result<Access> {
    let name = wide(path);
    let (mut owner, mut dacl, mut raw): (PSID, *mut ACL, PSECURITY_DESCRIPTOR) =
        (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
    // SAFETY: `name` ends with a zero; the pointers are written before they are read.
    let error = unsafe {
        GetNamedSecurityInfoW(
            name.as_ptr(),
            SE_FILE_OBJECT,
            OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION,
            &raw mut owner,
            ptr::null_mut(),
            &raw mut dacl,
            ptr::null_mut(),
            &raw mut raw,
        )
    };
    if error != ERROR_SUCCESS {
        return Err(io::Error::from_raw_os_error(error as i32));
    }
    // SAFETY: both point into `raw`, which is freed after the last use.
    let access = unsafe { read(owner, dacl) };
    // SAFETY: allocated by the call above, which says to free it so.
    unsafe { LocalFree(raw) };
    access
}

/// # Safety
/// `owner` is a SID, and `dacl` an access list or null.
unsafe fn read(owner: PSID, dacl: *const ACL) -> io::Result<Access> {
    // SAFETY: by the caller's word.
    let owner = unsafe { sid_text(owner) }?;
    if dacl.is_null() {
        return Ok(Access { owner, allowed: None });
    }
    let mut allowed = Vec::new();
    // SAFETY: by the caller's word it is an access list.
    for index in 0..u32::from(unsafe { (*dacl).AceCount }) {
        let mut ace: *mut c_void = ptr::null_mut();
        // SAFETY: `dacl` is an access list; `ace` is written before it is read.
        if unsafe { GetAce(dacl, index, &raw mut ace) } == 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: every ACE begins with this header.
        let header = unsafe { *ace.cast::<ACE_HEADER>() };
        let ace = ace.cast::<ACCESS_ALLOWED_ACE>();
        let (who, rights) = match header.AceType {
            // SAFETY: an ACE of this type has the mask there, and the SID where `SidStart` is.
            ALLOWED => unsafe { (sid_text((&raw mut (*ace).SidStart).cast())?, (*ace).Mask) },
            kind if HARMLESS.contains(&kind) => continue,
            kind => (format!("somebody, by an entry of type {kind}"), u32::MAX),
        };
        let inherit_only = u32::from(header.AceFlags) & INHERIT_ONLY_ACE != 0;
        allowed.push(Entry { who, rights, inherit_only });
    }
    Ok(Access { owner, allowed: Some(allowed) })
}

/// Gives the folder at `path` the list of `descriptor` in place of its own and of what comes from above, and what is in it as far as it
/// inherits.
///
/// # Errors
/// When this process may not.
pub fn set_list(path: &Path, descriptor: &Descriptor) -> io::Result<()> {
    let name = wide(path);
    let (mut there, mut defaulted, mut dacl) = (0, 0, ptr::null_mut());
    // SAFETY: the descriptor lives until the end, and the list is in it; the others are written before they are read.
    let error = unsafe {
        if GetSecurityDescriptorDacl(descriptor.raw, &raw mut there, &raw mut dacl, &raw mut defaulted) == 0 {
            return Err(io::Error::last_os_error());
        }
        let what = DACL_SECURITY_INFORMATION | PROTECTED_DACL_SECURITY_INFORMATION;
        let none = ptr::null_mut();
        SetNamedSecurityInfoW(name.as_ptr(), SE_FILE_OBJECT, what, none, none, dacl, ptr::null())
    };
    if error == ERROR_SUCCESS { Ok(()) } else { Err(io::Error::from_raw_os_error(error as i32)) }
}

/// The SID of the user that this process runs as.
///
/// # Errors
/// When the system does not say.
pub fn own_sid() -> io::Result<String> {
    // SAFETY: the pseudo handle of the own process needs no closing.
    sid_of_process(unsafe { GetCurrentProcess() })
}

/// The SID of the user that the process with this number runs as.
///
/// # Errors
/// When there is no such process, or it may not be asked.
pub fn sid_of(process: u32) -> io::Result<String> {
    // SAFETY: no pointer is involved.
    let handle = unsafe { OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, 0, process) };
    if handle.is_null() {
        return Err(io::Error::last_os_error());
    }
    let sid = sid_of_process(handle);
    // SAFETY: opened above, and not used any more.
    unsafe { CloseHandle(handle) };
    sid
}

fn sid_of_process(process: HANDLE) -> io::Result<String> {
    let mut token: HANDLE = ptr::null_mut();
    // SAFETY: `process` is open; `token` is written before it is read.
    if unsafe { OpenProcessToken(process, TOKEN_QUERY, &raw mut token) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // Room for a TOKEN_USER and the longest SID (68 bytes), aligned for the pointer in it.
    let mut room = [0_u64; 32];
    let mut used = 0;
    // SAFETY: `room` is as long as the call is told.
    let done = unsafe {
        GetTokenInformation(
            token,
            TokenUser,
            room.as_mut_ptr().cast(),
            size_of_val(&room) as u32,
            &raw mut used,
        )
    };
    let error = io::Error::last_os_error();
    // SAFETY: opened above, and not used any more.
    unsafe { CloseHandle(token) };
    if done == 0 {
        return Err(error);
    }
    // SAFETY: the call has put a TOKEN_USER there, whose SID lies behind it in `room`.
    unsafe { sid_text((*room.as_ptr().cast::<TOKEN_USER>()).User.Sid) }
}

/// Whether the process has the rights of an administrator (it is elevated).
///
/// # Errors
/// When there is no such process, or it may not be asked.
pub fn is_administrator(process: u32) -> io::Result<bool> {
    /// Closes a handle when it goes.
    struct Open(HANDLE);
    impl Drop for Open {
        fn drop(&mut self) {
            // SAFETY: opened by the function below, and used nowhere else.
            unsafe { CloseHandle(self.0) };
        }
    }
    let check = |done: i32| if done == 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    let (mut token, mut shown, mut member): (HANDLE, HANDLE, i32) = (ptr::null_mut(), ptr::null_mut(), 0);
    let mut sid = [0_u64; (SECURITY_MAX_SID_SIZE as usize).div_ceil(8)];
    let mut length = size_of_val(&sid) as u32;
    // SAFETY: each handle is written before it is read and closed once; `sid` is as long as the call is told.
    unsafe {
        let process = Open(OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, 0, process));
        check(i32::from(!process.0.is_null()))?;
        check(OpenProcessToken(process.0, TOKEN_QUERY | TOKEN_DUPLICATE, &raw mut token))?;
        let token = Open(token);
        check(DuplicateToken(token.0, SecurityIdentification, &raw mut shown))?;
        let shown = Open(shown);
        let room = sid.as_mut_ptr().cast();
        check(CreateWellKnownSid(WinBuiltinAdministratorsSid, ptr::null_mut(), room, &raw mut length))?;
        check(CheckTokenMembership(shown.0, room, &raw mut member))?;
    }
    Ok(member != 0)
}

/// # Safety
/// `sid` is a SID.
unsafe fn sid_text(sid: PSID) -> io::Result<String> {
    let mut text: *mut u16 = ptr::null_mut();
    // SAFETY: by the caller's word; `text` is written before it is read.
    if unsafe { ConvertSidToStringSidW(sid, &raw mut text) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has put a text there that ends with a zero.
    let string = unsafe {
        let length = (0..).take_while(|&at| *text.add(at) != 0).count();
        String::from_utf16_lossy(std::slice::from_raw_parts(text, length))
    };
    // SAFETY: allocated by the conversion, which says to free it so.
    unsafe { LocalFree(text.cast()) };
    Ok(string)
}

/// `text` as Windows wants it: UTF-16 with a zero at its end.
#[must_use]
pub fn wide(text: impl AsRef<OsStr>) -> Vec<u16> {
    text.as_ref().encode_wide().chain([0]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Holds, SYSTEM};

    #[test]
    fn an_entry_that_we_cannot_read_lets_somebody_in_and_one_that_keeps_out_does_not() {
        let read = |kind: u8, flags: u8| {
            // An access list of one entry (ACL, ACCESS_ALLOWED_ACE): the revision, its length, one entry; SYSTEM as its SID.
            let mut list = [0_u32; 7];
            list[0] = 2 | 28 << 16;
            list[1] = 1;
            list[2] = u32::from(kind) | u32::from(flags) << 8 | 20 << 16;
            list[3] = 0x1F_01FF;
            list[4] = 1 | 1 << 8;
            list[5] = u32::from_be(5);
            list[6] = 18;
            let owner: *mut c_void = (&raw mut list[4]).cast();
            // SAFETY: the SID and the list are as above, and aligned.
            unsafe { super::read(owner, list.as_ptr().cast()) }.unwrap()
        };
        let entry = |inherit_only| Entry { who: SYSTEM.to_owned(), rights: 0x1F_01FF, inherit_only };
        assert_eq!(read(0, 3).allowed, Some(vec![entry(false)]));
        assert_eq!(read(0, 11).allowed, Some(vec![entry(true)]));
        assert_eq!(read(1, 0).allowed, Some(vec![]));
        for kind in [4, 5, 9, 11, 77] {
            assert!(!read(kind, 0).is_private(SYSTEM), "{kind}");
            assert!(read(kind, 0).stranger(Holds::AFolderOfOurs, SYSTEM).is_some(), "{kind}");
        }
        assert!(read(0, 0).is_private(SYSTEM) && read(6, 0).is_private(SYSTEM));
    }

    #[test]
    fn the_descriptors_are_understood_and_the_process_has_an_owner() {
        Descriptor::new(PIPE).unwrap();
        private().unwrap();
        assert!(Descriptor::new("nonsense").is_err());
        assert!(own_sid().unwrap().starts_with("S-1-"));
        assert_eq!(sid_of(std::process::id()).unwrap(), own_sid().unwrap());
    }
}
