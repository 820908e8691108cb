//! For Windows: the texts of the event log and the version, as resources of the program (binutils' windmc and windres).

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=windows/events.mc");
    let of = |name: &str| env::var(name).unwrap_or_default();
    if of("CARGO_CFG_TARGET_OS") != "windows" || of("CARGO_CFG_TARGET_ENV") != "gnu" {
        return;
    }
    let out = PathBuf::from(of("OUT_DIR"));
    let tool = |name: &str| format!("{}-w64-mingw32-{name}", of("CARGO_CFG_TARGET_ARCH"));
    let texts = Path::new(&of("CARGO_MANIFEST_DIR")).join("windows/events.mc");
    run(Command::new(tool("windmc")).arg("-h").arg(&out).arg("-r").arg(&out).arg(&texts));
    let version = of("CARGO_PKG_VERSION");
    let numbers: Vec<&str> = version.split(['.', '-']).take(3).collect();
    let script = format!(
        "#include \"events.rc\"\n1 VERSIONINFO\nFILEVERSION {numbers},0\nPRODUCTVERSION {numbers},0\nFILETYPE 1\nBEGIN\n\
         BLOCK \"StringFileInfo\" BEGIN BLOCK \"040904b0\" BEGIN\n\
         VALUE \"FileDescription\", \"overlay-gw\"\nVALUE \"FileVersion\", \"{version}\"\n\
         VALUE \"ProductName\", \"overlay-gw\"\nVALUE \"ProductVersion\", \"{version}\"\n\
         VALUE \"OriginalFilename\", \"overlay-gw.exe\"\nEND END\n\
         BLOCK \"VarFileInfo\" BEGIN VALUE \"Translation\", 0x409, 1200 END\nEND\n",
        numbers = numbers.join(",")
    );
    let (source, object) = (out.join("overlay-gw.rc"), out.join("resources.o"));
    if let Err(error) = fs::write(&source, script) {
        fail(&format!("{}: {error}", source.display()));
    }
    run(Command::new(tool("windres")).arg("-I").arg(&out).arg(&source).arg("-o").arg(&object));
    println!("cargo::rustc-link-arg-bins={}", object.display());
}

fn run(command: &mut Command) {
    match command.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => fail(&format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => fail(&format!("{command:?}: {error} (package binutils-mingw-w64-x86-64)")),
    }
}

/// Cargo shows it as the reason why nothing was built.
fn fail(text: &str) -> ! {
    println!("cargo::error={}", text.replace('\n', " "));
    std::process::exit(1)
}
