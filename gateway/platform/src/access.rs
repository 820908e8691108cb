//! Who may do what with a file or folder of Windows, and who of them is trusted. Pure: the leaf reads the list, and acts.
//!
//! Trusted are SYSTEM, under which the service runs, the Administrators, and the user of this process.

/// SYSTEM's SID (well-known SIDs, Windows' security documentation).
pub const SYSTEM: &str = "S-1-5-18";

/// The Administrators' SID.
pub const ADMINISTRATORS: &str = "S-1-5-32-544";

/// Stands for whoever owns the object.
pub const OWNER_RIGHTS: &str = "S-1-3-4";

/// Stands for the creator, in what is inherited only.
pub const CREATOR_OWNER: &str = "S-1-3-0";

/// Rights to a folder (winnt.h, "File Access Rights Constants" and "Access Mask Format").
mod right {
    pub const ADD_FILE: u32 = 0x2;
    pub const ADD_SUBDIRECTORY: u32 = 0x4;
    pub const WRITE_EA: u32 = 0x10;
    pub const DELETE_CHILD: u32 = 0x40;
    pub const WRITE_ATTRIBUTES: u32 = 0x100;
    pub const DELETE: u32 = 0x1_0000;
    pub const WRITE_DAC: u32 = 0x4_0000;
    pub const WRITE_OWNER: u32 = 0x8_0000;
    pub const GENERIC_ALL: u32 = 0x1000_0000;
    pub const GENERIC_WRITE: u32 = 0x4000_0000;
}

/// To give oneself every other right.
const TAKE: u32 = right::WRITE_DAC | right::WRITE_OWNER | right::GENERIC_ALL;

/// To put another thing in the place of one that is in the folder, or the folder away with all of it.
const REPLACE: u32 = TAKE | right::DELETE_CHILD | right::DELETE;

/// To make something in a folder.
const MAKE: u32 = right::ADD_FILE | right::ADD_SUBDIRECTORY | right::GENERIC_WRITE | right::GENERIC_ALL;

/// To change anything in the folder, or the folder: attributes suffice to make a link of an empty one (FSCTL_SET_REPARSE_POINT).
const CHANGE: u32 = REPLACE | MAKE | right::WRITE_EA | right::WRITE_ATTRIBUTES;

/// An entry of an access list that lets somebody in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// A SID, or the sort of entry, in words, where we cannot read whose it is.
    pub who: String,
    /// The access mask.
    pub rights: u32,
    /// It is not for the folder itself, but for what will be made in it.
    pub inherit_only: bool,
}

/// Who may do something with a file or folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The owner's SID.
    pub owner: String,
    /// Who is let in; `None`: everybody, for there is no list.
    pub allowed: Option<Vec<Entry>>,
}

/// What is in a folder, as far as others may not touch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// All of it is ours.
    Ours,
    /// A folder of ours that is there.
    AFolderOfOurs,
    /// A folder of ours that is still to be made: whoever may make something here could be first.
    APlaceForOurs,
}

impl Access {
    /// Whether the owner is SYSTEM, the Administrators, or `me`: no other could let himself in whatever the list says.
    #[must_use]
    pub fn is_of_the_trusted(&self, me: &str) -> bool {
        [SYSTEM, ADMINISTRATORS, me].contains(&self.owner.as_str())
    }

    /// Whether nobody but SYSTEM, the Administrators and the owner is let in; and the owner is one of them, or `me`.
    #[must_use]
    pub fn is_private(&self, me: &str) -> bool {
        self.is_of_the_trusted(me)
            && self
                .allowed
                .as_ref()
                .is_some_and(|allowed| allowed.iter().all(|entry| is_trusted(&entry.who, me)))
    }

    /// Who, in words, may change what must be ours in this folder, and is not trusted; `None`: nobody. That others may read is no
    /// matter here: what is secret has a list of its own.
    #[must_use]
    pub fn stranger(&self, holds: Holds, me: &str) -> Option<String> {
        let Some(allowed) = &self.allowed else { return Some("everybody".to_owned()) };
        let strange = |entry: &&Entry| {
            let counts = match holds {
                // What is given on to files in it makes those open: not all of ours are made with a list of their own.
                Holds::Ours => entry.rights & CHANGE != 0,
                Holds::AFolderOfOurs => !entry.inherit_only && entry.rights & REPLACE != 0,
                Holds::APlaceForOurs => !entry.inherit_only && entry.rights & (REPLACE | MAKE) != 0,
            };
            counts && !is_trusted(&entry.who, me)
        };
        allowed.iter().find(strange).map(|entry| in_words(&entry.who))
    }
}

/// Whether `who` stands for one of the trusted. The owner is looked at by himself.
fn is_trusted(who: &str, me: &str) -> bool {
    [SYSTEM, ADMINISTRATORS, me, OWNER_RIGHTS, CREATOR_OWNER].contains(&who)
}

/// How an operator makes a file private, one command a line, for cmd and PowerShell alike.
#[must_use]
pub fn private_commands(file: &str) -> String {
    commands(file, "F")
}

/// How an operator closes a folder, with what will be made in it.
#[must_use]
pub fn closing_commands(folder: &str) -> String {
    commands(folder, "(OI)(CI)F")
}

/// Another owner could let himself in again, and `/grant:r` leaves what somebody else was given by name: so the Administrators take it
/// over (takeown also where icacls' `/setowner` may not), and the list begins anew.
fn commands(path: &str, rights: &str) -> String {
    format!(
        "takeown /f \"{path}\" /a\n    icacls \"{path}\" /reset\n    \
         icacls \"{path}\" /inheritance:r /grant:r \"*{SYSTEM}:{rights}\" \"*{ADMINISTRATORS}:{rights}\""
    )
}

/// The groups that everybody is in have a name.
fn in_words(sid: &str) -> String {
    let name = match sid {
        "S-1-1-0" => "Everyone",
        "S-1-5-11" => "Authenticated Users",
        "S-1-5-32-545" => "Users",
        other => return other.to_owned(),
    };
    format!("the group {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: &str = "S-1-5-21-1-2-3-1000";
    const ANOTHER: &str = "S-1-5-21-1-2-3-1001";
    const USERS: &str = "S-1-5-32-545";
    const FULL: u32 = 0x1F_01FF;
    const READ: u32 = 0x12_00A9;

    fn access(owner: &str, entries: &[(&str, u32, bool)]) -> Access {
        let entry = |&(who, rights, inherit_only): &(&str, u32, bool)| Entry {
            who: who.to_owned(),
            rights,
            inherit_only,
        };
        Access { owner: owner.to_owned(), allowed: Some(entries.iter().map(entry).collect()) }
    }

    fn open(owner: &str, allowed: &[&str]) -> Access {
        access(owner, &allowed.iter().map(|who| (*who, FULL, false)).collect::<Vec<_>>())
    }

    /// What a folder below `%ProgramData%` inherits when an administrator makes it with mkdir (icacls, Server 2019).
    fn made_by_mkdir() -> Access {
        access(
            ADMINISTRATORS,
            &[
                (SYSTEM, FULL, false),
                (ADMINISTRATORS, FULL, false),
                (CREATOR_OWNER, right::GENERIC_ALL, true),
                (USERS, READ, false),
                (
                    USERS,
                    right::ADD_FILE | right::ADD_SUBDIRECTORY | right::WRITE_EA | right::WRITE_ATTRIBUTES,
                    false,
                ),
            ],
        )
    }

    #[test]
    fn private_is_what_only_system_the_administrators_and_a_trusted_owner_may_touch() {
        assert!(open(SYSTEM, &[SYSTEM, ADMINISTRATORS]).is_private(ME));
        assert!(open(ME, &[SYSTEM, OWNER_RIGHTS]).is_private(ME));
        // Everyone; Users; another user who owns it and could let himself in.
        assert!(!open(SYSTEM, &[SYSTEM, "S-1-1-0"]).is_private(ME));
        assert!(!open(ME, &[ME, USERS]).is_private(ME));
        assert!(!open(ANOTHER, &[SYSTEM, OWNER_RIGHTS]).is_private(ME));
        assert!(!open(ANOTHER, &[]).is_of_the_trusted(ME));
        assert!([SYSTEM, ADMINISTRATORS, ME].iter().all(|owner| open(owner, &[]).is_of_the_trusted(ME)));
        assert!(!Access { owner: SYSTEM.to_owned(), allowed: None }.is_private(ME));
    }

    /// Stands for a file on Windows and what takeown and icacls do with it, as their documentation says.
    struct Modelled {
        access: Access,
        /// What comes from the folder above, and is in the list as well.
        inherited: Vec<Entry>,
    }

    impl Modelled {
        fn run(&mut self, command: &str) {
            let words: Vec<&str> = command.split('"').flat_map(|part| part.split(' ')).collect();
            let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
            match words[0] {
                // /a: for the Administrators, not for who runs it.
                "takeown" => {
                    let me = if words.contains(&"/a") { ADMINISTRATORS } else { ME };
                    self.access.owner = me.to_owned();
                }
                "icacls" => {
                    for word in &words[2..] {
                        let list = self.access.allowed.get_or_insert_default();
                        match *word {
                            "/reset" => list.clone_from(&self.inherited),
                            "/inheritance:r" => list.retain(|entry| !self.inherited.contains(entry)),
                            "/grant:r" => {}
                            grant => {
                                let (who, rights) = grant.split_once(':').unwrap();
                                let who = who.strip_prefix('*').unwrap();
                                assert!(rights.ends_with('F'));
                                list.retain(|entry| entry.who != who);
                                list.push(Entry { who: who.to_owned(), rights: FULL, inherit_only: false });
                            }
                        }
                    }
                }
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn the_commands_that_are_printed_make_any_file_private_for_the_service_as_well() {
        let entry = |who: &str| Entry { who: who.to_owned(), rights: FULL, inherit_only: false };
        for owner in [SYSTEM, ADMINISTRATORS, ME, ANOTHER] {
            for (given, inherited) in [
                (vec![], vec![]),
                (vec![], vec![entry(USERS), entry(ME)]),
                (vec![entry("S-1-1-0"), entry(ANOTHER)], vec![]),
                (vec![entry("S-1-1-0")], vec![entry(USERS)]),
            ] {
                let allowed = Some([given, inherited.clone()].concat());
                let mut file = Modelled { access: Access { owner: owner.to_owned(), allowed }, inherited };
                for command in private_commands(r"C:\packs\a.key").lines() {
                    file.run(command);
                }
                assert!(file.access.is_private(SYSTEM), "{owner}: {:?}", file.access);
                assert!(file.access.is_private(ME));
            }
        }
        let closing = closing_commands("C:\\a folder");
        assert!(
            closing.contains("\"*S-1-5-18:(OI)(CI)F\""),
            "PowerShell takes parentheses for its own: {closing}"
        );
        assert!(closing.lines().all(|line| line.contains("\"C:\\a folder\"")), "{closing}");
    }

    #[test]
    fn a_folder_that_we_make_is_as_it_must_be_whatever_it_holds() {
        for made in [open(SYSTEM, &[SYSTEM, ADMINISTRATORS]), open(ME, &[SYSTEM, ADMINISTRATORS, ME])] {
            for holds in [Holds::Ours, Holds::AFolderOfOurs, Holds::APlaceForOurs] {
                assert_eq!(made.stranger(holds, ME), None, "{holds:?}");
            }
        }
    }

    #[test]
    fn a_folder_by_mkdir_lets_users_make_files_and_so_holds_a_folder_of_ours_only_once_that_is_there() {
        let folder = made_by_mkdir();
        assert_eq!(folder.stranger(Holds::Ours, ME), Some("the group Users".to_owned()));
        assert_eq!(folder.stranger(Holds::AFolderOfOurs, ME), None);
        assert_eq!(folder.stranger(Holds::APlaceForOurs, ME), Some("the group Users".to_owned()));
    }

    #[test]
    fn each_right_to_change_counts_and_none_to_read() {
        let given = |rights, holds| access(SYSTEM, &[(ANOTHER, rights, false)]).stranger(holds, ME).is_some();
        for bit in 0..32 {
            let of = |holds| given(1 << bit, holds);
            let replaces = [6, 16, 18, 19, 28].contains(&bit);
            let makes = [1, 2, 28, 30].contains(&bit);
            let marks = [4, 8].contains(&bit);
            assert_eq!(of(Holds::Ours), replaces || makes || marks, "{bit}");
            assert_eq!(of(Holds::AFolderOfOurs), replaces, "{bit}");
            assert_eq!(of(Holds::APlaceForOurs), replaces || makes, "{bit}");
        }
        assert!(!given(READ, Holds::Ours));
    }

    #[test]
    fn what_is_given_on_counts_where_files_of_ours_are_made_and_no_list_lets_everybody_in() {
        let folder = access(SYSTEM, &[(USERS, FULL, true)]);
        assert!(folder.stranger(Holds::Ours, ME).is_some());
        assert_eq!(folder.stranger(Holds::AFolderOfOurs, ME), None);
        let without = Access { owner: SYSTEM.to_owned(), allowed: None };
        assert_eq!(without.stranger(Holds::AFolderOfOurs, ME), Some("everybody".to_owned()));
        let unread = open(SYSTEM, &["by an entry of type 9"]);
        assert_eq!(unread.stranger(Holds::AFolderOfOurs, ME), Some("by an entry of type 9".to_owned()));
    }
}
