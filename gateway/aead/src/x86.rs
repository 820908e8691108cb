//! Which of the two a processor gets.

use crate::{TAG, avx2, avx512};
use zeroize::Zeroize;

/// That one exists says that the processor has the instructions of its form.
pub struct Key {
    bytes: [u8; 32],
    form: Form,
}

#[derive(Clone, Copy)]
enum Form {
    Avx512,
    Avx2,
}

/// With AVX2 a group of eight blocks is made whatever is needed of it, so short texts are quicker elsewhere; and what is longer than a packet
/// of 1,500 bytes is opened in two passes.
const WORTH_WHILE_AVX2: std::ops::RangeInclusive<usize> = 320..=4096;

impl Drop for Key {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl Key {
    pub fn new(bytes: &[u8; 32]) -> Option<Self> {
        let form = if avx512::is_here() { Some(Form::Avx512) } else { avx2::is_here().then_some(Form::Avx2) };
        form.map(|form| Self { bytes: *bytes, form })
    }

    /// A key in each form that this processor has.
    #[cfg(test)]
    pub fn each(bytes: &[u8; 32]) -> Vec<Self> {
        let forms = [(avx512::is_here(), Form::Avx512), (avx2::is_here(), Form::Avx2)];
        forms.into_iter().filter(|(here, _)| *here).map(|(_, form)| Self { bytes: *bytes, form }).collect()
    }

    /// What the form is called in figures.
    pub fn form(&self) -> &'static str {
        match self.form {
            Form::Avx512 => "avx512",
            Form::Avx2 => "avx2",
        }
    }

    pub fn is_worth_while(&self, len: usize) -> bool {
        match self.form {
            Form::Avx512 => true,
            Form::Avx2 => WORTH_WHILE_AVX2.contains(&len),
        }
    }

    pub fn seal(&self, nonce: &[u8; 12], text: &mut [u8]) -> [u8; TAG] {
        // SAFETY: `new` has found the instructions.
        unsafe {
            match self.form {
                Form::Avx512 => avx512::seal(&self.bytes, nonce, text),
                Form::Avx2 => avx2::seal(&self.bytes, nonce, text),
            }
        }
    }

    pub fn open(&self, nonce: &[u8; 12], text: &mut [u8], tag: &[u8; TAG]) -> bool {
        // SAFETY: `new` has found the instructions.
        unsafe {
            match self.form {
                Form::Avx512 => avx512::open(&self.bytes, nonce, text, tag),
                Form::Avx2 => avx2::open(&self.bytes, nonce, text, tag),
            }
        }
    }
}
