//! A config file of overlay-gw as text: sections in order, lines as a person would write them.

/// A TOML file in the making.
#[derive(Clone, Debug, Default)]
pub struct ConfigText {
    sections: Vec<(String, Vec<String>)>,
}

impl ConfigText {
    /// A file with `version = 1` and nothing else.
    #[must_use]
    pub fn new() -> Self {
        Self { sections: vec![(String::new(), vec!["version = 1".to_owned()])] }
    }

    /// Adds a line to the last section with that header (`[overlay]`), which is made when there is none.
    pub fn line(&mut self, header: &str, line: &str) -> &mut Self {
        match self.sections.iter_mut().rev().find(|(name, _)| name == header) {
            Some((_, lines)) => lines.push(line.to_owned()),
            None => self.sections.push((header.to_owned(), vec![line.to_owned()])),
        }
        self
    }

    /// Adds one more section with that header (`[[peers]]`).
    pub fn section(&mut self, header: &str, lines: &[&str]) -> &mut Self {
        self.sections.push((header.to_owned(), lines.iter().map(|&line| line.to_owned()).collect()));
        self
    }

    /// Replaces the first line that begins with `start`, in whatever section.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn replace(&mut self, start: &str, line: &str) -> &mut Self {
        let old = self.sections.iter_mut().flat_map(|(_, lines)| lines).find(|old| old.starts_with(start));
        line.clone_into(old.unwrap_or_else(|| panic!("no line begins with {start:?}")));
        self
    }

    /// The file.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (header, lines) in &self.sections {
            if !header.is_empty() {
                text.push('\n');
                text.push_str(header);
                text.push('\n');
            }
            for line in lines {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }
}
