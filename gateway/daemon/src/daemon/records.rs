//! Signed records: handed over by command, arriving through the overlay, and handed on.

use super::Daemon;
use crate::claims::Claim;
use crate::exit::Failure;
use crate::members::{NetworkOutcome, RecordOutcome};
use overlay_config::Config;
use overlay_config::membership::{Merge, SignedRecord};
use overlay_engine::control::MAX_MESSAGE;
use overlay_engine::{EngineSettings, Output};
use overlay_platform::Transport as _;
use serde_json::{Value, json};
use std::time::Instant;

/// Messages about signed records that are sent at once, ten times a second.
const GOSSIP_AT_ONCE: usize = 64;

impl Daemon {
    /// `peer add` and `peer remove`: signed records in base64.
    pub(super) async fn records_handed_over(
        &mut self,
        records: &[String],
        remove: bool,
    ) -> Result<Value, Failure> {
        let bad = |why: String| Failure::bad_input(why, "hand over a file that `overlay-gw plan` wrote");
        let records = records.iter().enumerate().map(|(index, text)| {
            text.parse::<SignedRecord>().map_err(|why| bad(format!("record {}: {why}", index + 1)))
        });
        let records = records.collect::<Result<Vec<_>, _>>()?;
        let revoked = |record: &SignedRecord| record.record().revoked;
        if remove && !records.iter().all(revoked) {
            return Err(Failure::bad_input(
                "a record here makes a member and does not end one, and nothing was changed",
                "remove takes the record that `overlay-gw plan revoke` wrote; a member is taken in by `overlay-gw peer add`",
            ));
        }
        if !remove && records.iter().all(revoked) {
            return Err(Failure::bad_input(
                "no record here makes a member, and nothing was changed",
                "add takes the record that `overlay-gw plan add-node` wrote; one that ends a membership is for `overlay-gw peer remove`",
            ));
        }
        let added = self.members.add(&records);
        if added.is_err() {
            for claim in self.members.refused(&records) {
                self.tell_refused(None, &claim);
            }
            self.tell_now();
        }
        let outcomes: Vec<RecordOutcome> = added?;
        self.answer_revoked();
        for record in &records {
            self.spread(&record.to_bytes(), Some(record.record().public_key.0), None);
        }
        self.tell_now();
        let config = self.members.apply(&self.file);
        self.end_memberships(&config);
        match self.put_in_force(config).await {
            Ok(changed) => Ok(json!({ "records": outcomes, "changed": changed })),
            Err(failure) => {
                self.records_wait = true;
                let text = format!(
                    "the records are taken in and handed on, and whom they end is out; the rest waits for the host, which is asked \
                     again each second: {}",
                    failure.text
                );
                Err(Failure { text, ..failure })
            }
        }
    }

    /// Whether this came in the open and says what it may say there: that this host itself is a member no more. Whether it is signed, the book
    /// finds out; anybody can send such bytes.
    pub(super) fn is_own_revocation(&self, record: &[u8]) -> bool {
        let own = self.config.private_key().map(|key| key.public());
        let record = SignedRecord::from_bytes(record);
        record.is_ok_and(|record| record.record().revoked && Some(record.record().public_key) == own)
    }

    /// Takes in signed records that other gateways handed on, and puts in force what follows.
    /// `records`: each with who handed it on, if that was in a session.
    pub(super) async fn records_arrived(&mut self, records: &[(Option<[u8; 32]>, Vec<u8>)]) {
        let bytes: Vec<&[u8]> = records.iter().map(|(_, bytes)| bytes.as_slice()).collect();
        let outcomes = self.members.merge_from_network(&bytes);
        let mut changed = false;
        for (outcome, (from, bytes)) in outcomes.iter().zip(records) {
            let (NetworkOutcome::Merged(outcome), Ok(record)) = (outcome, SignedRecord::from_bytes(bytes))
            else {
                continue;
            };
            if let Merge::New | Merge::Newer { .. } = outcome {
                changed = true;
                self.spread(bytes, Some(record.record().public_key.0), from.as_ref());
            } else if let Some(claim) = Claim::of(&record, outcome).filter(Claim::is_worse_than_old)
                && from.is_some()
                && self.members.claims.may_tell(Instant::now())
            {
                self.tell_refused(*from, &claim);
            }
        }
        if !changed {
            return;
        }
        self.answer_revoked();
        let config = self.members.apply(&self.file);
        if config == self.config {
            return;
        }
        self.tell_now();
        self.end_memberships(&config);
        self.records_in_force().await;
    }

    /// Puts in force what the signed records say. What the host refuses is tried again a second later.
    pub(super) async fn records_in_force(&mut self) {
        let config = self.members.apply(&self.file);
        let again = std::mem::take(&mut self.records_wait);
        if config == self.config {
            return;
        }
        match self.put_in_force(config).await {
            Ok(changed) => tracing::info!(?changed, "signed records are in force"),
            Err(failure) => {
                if !again {
                    tracing::warn!("signed records are not in force yet: {failure}");
                }
                self.records_wait = true;
            }
        }
    }

    /// Tells who has handed a record on that was refused here, and whose place it claims: through the overlay if that is somebody else.
    fn tell_refused(&mut self, presenter: Option<[u8; 32]>, claim: &Claim) {
        let now = Instant::now();
        let Some(book) = self.members.book() else { return };
        let own = self.config.private_key().map(|key| key.public());
        let concerned: Vec<_> = claim.concerns(book).map(|member| member.public_key).collect();
        for key in concerned {
            if Some(key) == own {
                self.members.claims.against(now, self.config.name(), "this host", claim);
            } else if self.keeps_records(&key.0) {
                self.gossip.refused(now, key.0, &claim.to_bytes());
            }
        }
        if let Some(presenter) = presenter {
            self.gossip.refused(now, presenter, &claim.to_bytes());
        }
    }

    /// A gateway has refused a record: one of ours, or one that claims our place. Only hubs are believed.
    pub(super) fn hear_refused(&mut self, from: &[u8; 32], claim: &[u8]) {
        let Some(hub) = self.config.hubs.iter().find(|hub| hub.public_key.0 == *from) else { return };
        let (Some(claim), Some(own)) = (Claim::from_bytes(claim), self.config.private_key()) else { return };
        let (now, by, own) = (Instant::now(), format!("`{}`", hub.name), own.public());
        let ours = self.members.book().is_some_and(|book| claim.concerns(book).any(|m| m.public_key == own));
        if ours {
            self.members.claims.against(now, self.config.name(), &by, &claim);
        } else {
            self.members.claims.refused(now, &by, &claim);
        }
    }

    /// A hub: whoever was revoked and comes back is answered with the record that says so.
    pub(super) fn answer_revoked(&self) {
        if self.config.node().is_some() {
            return;
        }
        let records = self.members.book().into_iter().flat_map(|book| book.records());
        let revoked = records.filter(|record| record.record().revoked);
        self.engine.set_revoked(revoked.map(|r| (r.record().public_key.0, r.to_bytes())).collect());
    }

    /// Ends the sessions of whom `config` does not know any more, before the host is asked for anything: what it refuses must not keep a
    /// revoked member in.
    fn end_memberships(&self, config: &Config) {
        let stays = EngineSettings::from_config(config);
        let mut settings = EngineSettings::from_config(&self.config);
        let before = settings.peers.len();
        settings.peers.retain(|peer| stays.peers.iter().any(|other| other.public_key == peer.public_key));
        if settings.peers.len() < before {
            self.engine.reconfigure(settings, Instant::now());
        }
    }

    /// Hands a record on to everybody who keeps records, but for whom it came `from`; first to `whose` membership it is.
    fn spread(&mut self, record: &[u8], whose: Option<[u8; 32]>, from: Option<&[u8; 32]>) {
        let keys = self.keepers().into_iter().map(|(key, _)| key).filter(|key| Some(key) != from);
        self.gossip.spread(Instant::now(), keys, whose, record);
    }

    /// Asks whom it is time to ask whether it holds the same records.
    pub(super) fn compare_records(&mut self) {
        let now = Instant::now();
        let Some(book) = self.members.book().filter(|_| self.gossip.is_due(now)) else { return };
        let keepers = self.keepers().into_iter();
        self.gossip.compare(now, book, self.config.node().is_some(), keepers);
    }

    /// Everybody who keeps records as well, and whether there is a session.
    fn keepers(&self) -> Vec<([u8; 32], bool)> {
        let peers = self.engine.peers();
        let keepers = peers
            .iter()
            .filter(|peer| peer.link.speaks && self.keeps_records(&peer.peer.settings.public_key));
        keepers.map(|peer| (peer.peer.settings.public_key, peer.link.session)).collect()
    }

    /// Records go between hubs and nodes; between nodes they would only come twice.
    pub(super) fn keeps_records(&self, public_key: &[u8; 32]) -> bool {
        self.config.node().is_none() || self.config.hubs.iter().any(|hub| hub.public_key.0 == *public_key)
    }

    /// Before the members change: whom a record puts out is told as well.
    fn tell_now(&mut self) {
        let mut out = Output::for_batch(GOSSIP_AT_ONCE * 2 * MAX_MESSAGE, GOSSIP_AT_ONCE);
        self.send_gossip(&mut out);
    }

    pub(super) fn send_gossip(&mut self, out: &mut Output) {
        out.clear();
        let mut sent = 0;
        while sent < GOSSIP_AT_ONCE && out.net.room() > 2 * MAX_MESSAGE {
            let Some((peer, bytes)) = self.gossip.next() else { break };
            let now = Instant::now();
            if !self.engine.send_membership(now, &peer, &bytes, out) {
                self.gossip.lost(now, &peer);
            }
            sent += 1;
        }
        if let Err(error) = self.transport.send_batch(&out.net) {
            tracing::debug!(%error, "underlay");
        }
    }
}
