//! Later changes to a planned overlay: a node more, a node rebuilt, a member revoked. Each is a record with a higher serial.

use zeroize::Zeroizing;

use crate::diagnostic::{Place, Report};
use crate::load::load_overlay;
use crate::membership::{Book, RECORDS_FILE, Record, RecordLines, SignedRecord, SigningKey, Standing};
use crate::name::{nearest, shown};
use crate::{Diagnostic, Diagnostics, Files, Overlay, Peer, PublicKey, Source};

use super::pack::Cut;
use super::{
    OVERLAY_FILE, PackFile, Plan, PlanHub, PlanMember, PlanNode, SIGNING_KEY_FILE, node_record, private_key,
    sign,
};

/// What the administrator keeps of a plan, read and found consistent.
#[derive(Debug)]
pub struct Kept {
    overlay: Overlay,
    plain: Vec<Peer>,
    signing_key: SigningKey,
    book: Book,
}

/// What a later change makes.
#[derive(Debug)]
pub struct Later {
    /// New files: the pack of a node. None of them is there yet, but a folder of the same name when a node is rebuilt.
    pub pack: Vec<PackFile>,
    /// The records that are new, for `overlay-gw peer add|remove`: a file named after the member.
    pub news: PackFile,
    /// All records, in the place of those that were there.
    pub records: PackFile,
    /// The members that this takes the place of or revokes.
    pub ended: Vec<Record>,
    /// What is valid but may not be what was meant.
    pub warnings: Vec<Diagnostic>,
}

impl Kept {
    /// Reads what [`Plan::packs`] wrote beside the packs. `files` reads in the output folder, which `folder` names.
    ///
    /// # Errors
    /// A file that is missing or damaged, a signing key that others can read or that is not this overlay's.
    pub fn open(folder: &str, files: &dyn Files) -> Result<Self, Diagnostics> {
        let place = |file: &str| Place::flag(&format!("{folder}/{file}"));
        let failed = |file: &str, text: String, fix: &str| {
            let mut report = Report::default();
            report.error("plan-folder", &place(file), text, fix);
            report.finish().map_or_else(|errors| errors, Diagnostics)
        };
        let read = |file: &str| {
            files.read(file.as_ref()).map_err(|why| {
                let fix = "name the folder that `overlay-gw plan --out DIR` wrote: it holds the signing key and the records";
                failed(file, why.to_string(), fix)
            })
        };
        let text = read(OVERLAY_FILE)?;
        let source = Source { name: format!("{folder}/{OVERLAY_FILE}"), bytes: text.bytes.to_vec() };
        let (overlay, plain) = load_overlay(&source, files)?;
        let secret = read(SIGNING_KEY_FILE)?;
        if !secret.private {
            let fix = files.private_fix(&format!("{folder}/{SIGNING_KEY_FILE}"));
            return Err(failed(SIGNING_KEY_FILE, "others can read the overlay's signing key".into(), &fix));
        }
        let key = std::str::from_utf8(&secret.bytes).map_err(|_| crate::KeyError::NotBase64);
        let key = key.and_then(SigningKey::from_base64).map_err(|why| {
            failed(
                SIGNING_KEY_FILE,
                format!("the signing key cannot be read: {why}"),
                "restore the file from a backup",
            )
        })?;
        let Some(mut book) = Book::of(&overlay).filter(|book| book.signing_key() == key.public()) else {
            let text = format!(
                "this is not the signing key of the overlay, whose public half stands in {OVERLAY_FILE}"
            );
            return Err(failed(SIGNING_KEY_FILE, text, "restore both files from the same backup"));
        };
        let lines = RecordLines::parse(&read(RECORDS_FILE)?.bytes);
        // A record that is lost here would give its serial away a second time.
        let fix = "restore the file from a backup";
        if let Some(bad) = lines.bad.first() {
            return Err(failed(RECORDS_FILE, bad.to_string(), fix));
        }
        for (line, record) in &lines.records {
            let outcome = book.merge(record);
            if matches!(
                outcome,
                crate::membership::Merge::BadSignature | crate::membership::Merge::Invalid(_)
            ) {
                let text = format!(
                    "line {line}: this record is not signed with {SIGNING_KEY_FILE} for {}",
                    overlay.cidr
                );
                return Err(failed(RECORDS_FILE, text, fix));
            }
        }
        Ok(Self { overlay, plain, signing_key: key, book })
    }

    /// The members now.
    #[must_use]
    pub fn members(&self) -> Vec<&Record> {
        self.book.members()
    }

    /// A node more. With `replace` it takes the place of the node with its name and of the one with its slot: their keys are
    /// revoked.
    ///
    /// # Errors
    /// Every mistake, at its flag; then nothing is to be written.
    pub fn add_node(
        &self,
        node: &PlanNode,
        replace: bool,
        entropy: &mut dyn FnMut(&mut [u8]),
    ) -> Result<Later, Diagnostics> {
        let place = Place::flag("--node");
        let mut report = Report::default();
        let named = crate::network::SlotName::parse(&node.slot);
        let slot = named.and_then(|name| name.resolve(self.overlay.cidr, self.overlay.slot_prefix)).ok();
        let members = self.book.members();
        let (ended, stay): (Vec<&Record>, Vec<_>) = members.into_iter().partition(|member| {
            let same_slot = slot.is_some() && member.slot() == slot;
            !member.is_hub() && (same_slot || member.name.eq_ignore_ascii_case(&node.name))
        });
        if !replace {
            for member in &ended {
                let text = if member.name.eq_ignore_ascii_case(&node.name) {
                    format!("`{}` is a member already: {member}", node.name)
                } else {
                    format!("slot {} is taken: {member}", shown(&node.slot))
                };
                let fix = "take another name and slot, or add --replace if this machine takes its place (its key is revoked)";
                report.error("node-twice", &place, text, fix);
            }
        }
        if replace && ended.is_empty() {
            let text =
                format!("there is no node `{}` and none in slot {}", shown(&node.name), shown(&node.slot));
            report.error("no-such-node", &place, text, "leave --replace out");
        }
        report.finish()?;
        let hubs: Vec<_> =
            stay.iter().filter(|member| member.is_hub()).filter_map(|member| hub(member)).collect();
        let mut nodes: Vec<_> = stay.iter().filter_map(|member| planned(member)).collect();
        nodes.push(node.clone());
        let members = self
            .plain
            .iter()
            .map(|peer| PlanMember { name: peer.name.clone(), allowed_ips: peer.allowed_ips.clone() });
        let plan = Plan {
            overlay: self.overlay.cidr,
            slot_prefix: self.overlay.slot_prefix,
            nodes,
            hubs: hubs.iter().map(|(hub, _)| hub.clone()).collect(),
            routes: self.overlay.routes.clone(),
            dns: self.overlay.dns.clone(),
            members: members.collect(),
        };
        let (slots, mut warnings) = plan.cut()?;
        // What was said of the whole plan was said when it was made.
        warnings.retain(|warning| warning.file == "--node");
        let Some(slot) = slots.last().copied() else { return Err(Diagnostics(warnings)) };

        let key = private_key(entropy);
        let revoked = ended.iter().map(|member| member.revocation(0));
        let made = revoked.chain([node_record(node, slot, key.public())]);
        let ended = ended.iter().map(|member| (*member).clone()).collect();
        let (news, records) = self.signed(&node.name, made)?;
        let hubs = plan.hubs.iter().zip(&hubs).map(|(hub, (_, key))| (hub, *key, None)).collect();
        let cut = Cut {
            plan: &plan,
            overlay: self.overlay.clone(),
            records: records.contents.to_string(),
            nodes: vec![(node, slot, key)],
            hubs,
            members: Vec::new(),
        };
        Ok(Later { pack: cut.files(), news, records, ended, warnings })
    }

    /// Ends the membership of a node or hub.
    ///
    /// # Errors
    /// When there is no such member.
    pub fn revoke(&self, name: &str) -> Result<Later, Diagnostics> {
        let members = self.book.members();
        let Some(member) = members.iter().find(|member| member.name.eq_ignore_ascii_case(name)) else {
            return Err(self.no_such_member(name));
        };
        let (news, records) = self.signed(&member.name, [member.revocation(0)])?;
        Ok(Later { pack: Vec::new(), news, records, ended: vec![(*member).clone()], warnings: Vec::new() })
    }

    fn no_such_member(&self, name: &str) -> Diagnostics {
        let mut report = Report::default();
        let place = Place::flag("--node");
        let members = self.book.members();
        let was = self.book.records().map(SignedRecord::record).filter(|r| r.name.eq_ignore_ascii_case(name));
        let was = was.max_by_key(|record| record.serial);
        if self.plain.iter().any(|peer| peer.name == name) {
            let text = format!("`{}` is a plain WireGuard member, and has no signed record", shown(name));
            report.error(
                "no-such-node",
                &place,
                text,
                "remove it from [[peers]] in each hub's file, and `overlay-gw reload`",
            );
        } else if let Some(record) = was
            && let Standing::Revoked { serial } = self.book.standing(&record.public_key)
        {
            let text = format!("`{}` was revoked already, with serial {serial}", shown(name));
            let fix = format!(
                "hand {}.record to the hubs: overlay-gw peer remove {}.record",
                record.name, record.name
            );
            report.error("no-such-node", &place, text, fix);
        } else {
            let names = || members.iter().map(|member| member.name.as_str());
            let fix = match nearest(name, names()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("members are: {}", names().take(8).collect::<Vec<_>>().join(", ")),
            };
            report.error("no-such-node", &place, format!("no member is called `{}`", shown(name)), fix);
        }
        report.finish().map_or_else(|errors| errors, Diagnostics)
    }

    /// Signs records with the next serials: the new ones as a file, and all as one.
    fn signed(
        &self,
        name: &str,
        records: impl IntoIterator<Item = Record>,
    ) -> Result<(PackFile, PackFile), Diagnostics> {
        let next = self.book.highest_serial().saturating_add(1);
        let records = records.into_iter().zip(next..).map(|(record, serial)| Record { serial, ..record });
        let made = sign(&self.signing_key, records, self.overlay.cidr)?;
        let mut book = self.book.clone();
        for record in &made {
            book.merge(record);
        }
        let file = |path: String, text| PackFile { path, contents: Zeroizing::new(text), secret: false };
        let news = file(format!("{name}.record"), RecordLines::write(&made));
        Ok((news, file(RECORDS_FILE.to_owned(), RecordLines::write(book.records()))))
    }
}

fn hub(member: &Record) -> Option<(PlanHub, PublicKey)> {
    let endpoint = member.endpoints.first()?.clone();
    Some((PlanHub { name: member.name.clone(), endpoint }, member.public_key))
}

fn planned(member: &Record) -> Option<PlanNode> {
    let slot = member.slot()?.gateway().to_string();
    Some(PlanNode { name: member.name.clone(), slot, endpoint: member.endpoints.first().cloned() })
}
