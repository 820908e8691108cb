//! TOML with places: every value that is taken out of a table knows its line and column, and a mistake is put on
//! record instead of ending the reading.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use toml_edit::{Item, TableLike, Value};

use crate::diagnostic::{Place, Placed, Report};
use crate::name::{nearest, shown};
use crate::words::meaning;

/// The text of a file, and where its lines begin.
pub(super) struct Text<'a> {
    file: Arc<str>,
    text: &'a str,
    lines: Vec<usize>,
}

impl<'a> Text<'a> {
    pub fn new(file: &str, text: &'a str) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { file: file.into(), text, lines }
    }

    /// Line and column, in characters, of a byte offset.
    pub fn place(&self, offset: usize) -> Place {
        let offset = offset.min(self.text.len());
        let line = self.lines.partition_point(|start| *start <= offset);
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(0);
        // A byte-order mark takes no column in an editor.
        let before = self.text.get(start..offset).unwrap_or("").trim_start_matches('\u{feff}');
        Place { file: self.file.clone(), line, column: before.chars().count() + 1 }
    }

    pub fn as_str(&self) -> &'a str {
        self.text
    }

    fn quote(&self, span: Option<Range<usize>>) -> &'a str {
        span.and_then(|span| self.text.get(span)).unwrap_or("")
    }
}

/// How each key is written: what is shown when one is missing or of the wrong type.
const EXAMPLES: &[(&str, &str)] = &[
    ("version", "version = 1"),
    ("name", "name = \"cluster-1\""),
    ("slot", "slot = 56"),
    ("private_key_file", "private_key_file = \"cluster-1.key\""),
    ("preshared_key_file", "preshared_key_file = \"hub-a.psk\""),
    ("listen_port", "listen_port = 51820"),
    ("cidr", "cidr = \"172.16.8.0/24\""),
    ("slot_prefix", "slot_prefix = 29"),
    ("dns", "dns = [\"172.16.0.1\"]"),
    ("routes", "routes = [{ cidr = \"172.16.0.0/24\", via = \"hub-a\" }]"),
    ("via", "via = \"hub-a\""),
    ("signing_key", "signing_key = \"(base64 of 32 bytes)\""),
    ("membership", "membership = \"file\""),
    ("relay", "relay = \"sealed\""),
    ("refuse", "refuse = \"reset\""),
    ("floating", "floating = [{ cidr = \"172.16.8.192/28\", slots = [56, 64] }]"),
    ("slots", "slots = [56, 64]"),
    ("mode", "mode = \"tun\""),
    ("mtu", "mtu = 1420"),
    ("queues", "queues = 1"),
    ("group", "group = \"overlay\""),
    ("private_network", "private_network = true"),
    ("icmp", "icmp = true"),
    ("cluster", "cluster = true"),
    ("smb", "smb = true"),
    ("rpc", "rpc = true"),
    ("public_key", "public_key = \"(what `wg pubkey` prints)\""),
    ("endpoint", "endpoint = \"hub.example:51820\""),
    ("kind", "kind = \"overlay-gw\""),
    ("persistent_keepalive", "persistent_keepalive = 25"),
    ("allowed_ips", "allowed_ips = [\"10.1.0.0/16\"]"),
];

/// One table and the keys that it may have.
pub(super) struct Section<'a> {
    text: &'a Text<'a>,
    table: &'a dyn TableLike,
    /// As a diagnostic calls it: `[node]`, `[[peers]]`.
    pub title: String,
    pub place: Place,
    /// Known keys that unknown ones were taken for: they are not missing as well.
    mistyped: Vec<String>,
}

impl<'a> Section<'a> {
    /// The whole file.
    pub fn root(text: &'a Text<'a>, table: &'a dyn TableLike) -> Self {
        Self { text, table, title: "this file".into(), place: text.place(0), mistyped: Vec::new() }
    }

    /// Puts every key on record that is not among the known ones.
    pub fn only(mut self, known: &[&str], report: &mut Report) -> Self {
        for (name, item) in self.table.iter() {
            if known.contains(&name) {
                continue;
            }
            let span = self.table.key(name).and_then(toml_edit::Key::span).or_else(|| item.span());
            let place = span.map_or_else(|| self.place.clone(), |span| self.text.place(span.start));
            let shown = shown(name);
            let near = nearest(name, known.iter().copied());
            self.mistyped.extend(near.map(str::to_owned));
            let fix = match (name, near) {
                ("private_key" | "preshared_key", _)
                    if known.contains(&"public_key") || known.contains(&"name") =>
                {
                    format!(
                        "secrets stay out of this file: put it into a file of its own and name that, `{shown}_file`"
                    )
                }
                (_, Some(near)) => format!("did you mean `{near}`?"),
                (_, None) => format!("known keys are: {}", known.join(", ")),
            };
            report.error("unknown-key", &place, format!("unknown key `{shown}` in {}", self.title), fix);
        }
        self
    }

    /// Whether an unknown key was taken for this one.
    pub fn is_mistyped(&self, key: &str) -> bool {
        self.mistyped.iter().any(|mistyped| mistyped == key)
    }

    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    pub fn array_is_empty(&self, key: &str) -> bool {
        self.table.get(key).and_then(Item::as_array).is_some_and(|array| array.is_empty())
    }

    /// Where a key's value stands; the section's place if there is none.
    pub fn place_of(&self, key: &str) -> Place {
        let key_span = || self.table.key(key).and_then(toml_edit::Key::span);
        let span = self.table.get(key).and_then(Item::span).or_else(key_span);
        span.map_or_else(|| self.place.clone(), |span| self.text.place(span.start))
    }

    /// Puts on record that a key is not there.
    pub fn missing(&self, key: &str, report: &mut Report) {
        let example = match (self.title.as_str(), key) {
            ("[[routes]]", "cidr") => "cidr = \"172.16.0.0/24\"",
            _ => example(key),
        };
        if self.is_mistyped(key) {
            return;
        }
        report.error(
            "missing-key",
            &self.place,
            format!("{} has no `{key}`", self.title),
            format!("add `{}`", example),
        );
    }

    fn wrong_type(
        &self,
        key: &str,
        found: &str,
        span: Option<Range<usize>>,
        wanted: &str,
        report: &mut Report,
    ) {
        let place = span.clone().map_or_else(|| self.place_of(key), |span| self.text.place(span.start));
        let value = self.text.quote(span);
        let value =
            value.lines().next().map(shown).filter(|value| !value.is_empty() && !value.starts_with('['));
        let value = value.map_or(String::new(), |value| format!(" ({value})"));
        let text = format!("`{key}` in {} is {found}{value}, and must be {wanted}", self.title);
        report.error("wrong-type", &place, text, format!("write it as `{}`", example(key)));
    }

    fn value(&self, key: &str, wanted: &str, report: &mut Report) -> Option<Element<'a>> {
        let item = self.table.get(key)?;
        if let Item::Value(value) = item {
            return Some(Element { value, place: self.place_of(key) });
        }
        if !item.is_none() {
            self.wrong_type(key, "a table", None, wanted, report);
        }
        None
    }

    pub fn string(&self, key: &str, report: &mut Report) -> Option<Placed<&'a str>> {
        let element = self.value(key, "a string", report)?;
        self.element_string(key, &element, report)
    }

    pub fn element_string(
        &self,
        key: &str,
        element: &Element<'a>,
        report: &mut Report,
    ) -> Option<Placed<&'a str>> {
        match element.value {
            Value::String(text) => Some(Placed::new(text.value().as_str(), element.place.clone())),
            other => {
                self.wrong_type(key, &article(other), other.span(), "a string", report);
                None
            }
        }
    }

    /// A string or an integer: the two ways to name a slot.
    pub fn element_either(
        &self,
        key: &str,
        element: &Element<'a>,
        report: &mut Report,
    ) -> Option<Placed<Result<i64, &'a str>>> {
        let either = match element.value {
            Value::Integer(number) => Ok(*number.value()),
            Value::String(text) => Err(text.value().as_str()),
            other => {
                self.wrong_type(key, &article(other), other.span(), "an integer or a string", report);
                return None;
            }
        };
        Some(Placed::new(either, element.place.clone()))
    }

    pub fn either(&self, key: &str, report: &mut Report) -> Option<Placed<Result<i64, &'a str>>> {
        let element = self.value(key, "an integer or a string", report)?;
        self.element_either(key, &element, report)
    }

    pub fn integer(&self, key: &str, report: &mut Report) -> Option<Placed<i64>> {
        let element = self.value(key, "an integer", report)?;
        match element.value {
            Value::Integer(number) => Some(Placed::new(*number.value(), element.place)),
            other => {
                self.wrong_type(key, &article(other), other.span(), "an integer", report);
                None
            }
        }
    }

    pub fn boolean(&self, key: &str, report: &mut Report) -> Option<Placed<bool>> {
        let element = self.value(key, "true or false", report)?;
        match element.value {
            Value::Boolean(switch) => Some(Placed::new(*switch.value(), element.place)),
            other => {
                self.wrong_type(key, &article(other), other.span(), "true or false", report);
                None
            }
        }
    }

    /// An integer in a range; `reason` says what the range comes from.
    pub fn ranged(
        &self,
        key: &str,
        range: RangeInclusive<u16>,
        reason: &str,
        report: &mut Report,
    ) -> Option<Placed<u16>> {
        let number = self.integer(key, report)?;
        match u16::try_from(number.value).ok().filter(|number| range.contains(number)) {
            Some(value) => Some(number.with(value)),
            None => {
                let text = format!(
                    "`{key}` is {}, which is not in {} to {}",
                    number.value,
                    range.start(),
                    range.end()
                );
                report.error("out-of-range", &number.place, text, reason);
                None
            }
        }
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&self, key: &str, words: &[(&str, T)], report: &mut Report) -> Option<Placed<T>> {
        let text = self.string(key, report)?;
        let chosen = meaning(key, text.value, words);
        let place = text.place;
        report.keep(&place, chosen).map(|value| Placed::new(value, place))
    }

    pub fn array(&self, key: &str, report: &mut Report) -> Vec<Element<'a>> {
        match self.value(key, "an array", report).map(|element| element.value) {
            None => Vec::new(),
            Some(Value::Array(array)) => array.iter().map(|value| self.element(key, value)).collect(),
            Some(other) => {
                self.wrong_type(key, &article(other), other.span(), "an array", report);
                Vec::new()
            }
        }
    }

    fn element(&self, key: &str, value: &'a Value) -> Element<'a> {
        let place = value.span().map_or_else(|| self.place_of(key), |span| self.text.place(span.start));
        Element { value, place }
    }

    fn nested(&self, table: &'a dyn TableLike, title: String, place: Place) -> Section<'a> {
        Section { text: self.text, table, title, place, mistyped: Vec::new() }
    }

    /// `[key]`, or `key = { … }`
    pub fn table(&self, key: &str, report: &mut Report) -> Option<Section<'a>> {
        let item = self.table.get(key)?;
        match item.as_table_like() {
            Some(table) => Some(self.nested(table, format!("[{key}]"), self.place_of(key))),
            None => {
                let text = format!("`{key}` is {}, and must be a table", item_article(item));
                report.error(
                    "wrong-type",
                    &self.place_of(key),
                    text,
                    format!("begin a section `[{key}]` on a line of its own"),
                );
                None
            }
        }
    }

    /// By another name in messages.
    pub fn titled(mut self, title: &str) -> Section<'a> {
        title.clone_into(&mut self.title);
        self
    }

    /// `[[key]]`, or `key = [{ … }, …]`
    pub fn tables(&self, key: &str, report: &mut Report) -> Vec<Section<'a>> {
        let section = |table: &'a dyn TableLike, place| self.nested(table, format!("[[{key}]]"), place);
        match self.table.get(key) {
            None => Vec::new(),
            Some(Item::ArrayOfTables(array)) => array
                .iter()
                .map(|table| {
                    let place =
                        table.span().map_or_else(|| self.place_of(key), |span| self.text.place(span.start));
                    section(table, place)
                })
                .collect(),
            Some(Item::Value(Value::Array(array))) => array
                .iter()
                .filter_map(|value| {
                    if let Some(table) = value.as_inline_table() {
                        return Some(section(table, self.element(key, value).place));
                    }
                    self.wrong_type(
                        key,
                        &format!("a list that holds {}", article(value)),
                        value.span(),
                        "a list of tables",
                        report,
                    );
                    None
                })
                .collect(),
            Some(other) => {
                let text = format!("`{key}` is {}, and must be a list of tables", item_article(other));
                let fix = match example(key) {
                    "" => format!("begin each one with `[[{key}]]`, in double brackets"),
                    example => format!("write it as `{example}`"),
                };
                report.error("wrong-type", &self.place_of(key), text, fix);
                Vec::new()
            }
        }
    }
}

/// A value of an array, or of a key.
pub(super) struct Element<'a> {
    value: &'a Value,
    pub place: Place,
}

fn example(key: &str) -> &'static str {
    EXAMPLES.iter().find(|(known, _)| *known == key).map_or("", |(_, example)| example)
}

fn article(value: &Value) -> String {
    with_article(value.type_name())
}

fn item_article(item: &Item) -> String {
    match item {
        Item::ArrayOfTables(_) => "a list of tables".into(),
        _ => with_article(item.type_name()),
    }
}

fn with_article(name: &str) -> String {
    let name = if name == "inline table" { "table" } else { name };
    let an = name.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {name}", if an { "an" } else { "a" })
}
