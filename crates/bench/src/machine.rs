//! What a measurement was made on: without it a figure says nothing.

use std::fs;

use serde_json::{Value, json};

/// The machine that a client runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// How many threads it runs at a time.
    pub cores: usize,
    /// Its memory; 0 where it is not known.
    pub memory_bytes: u64,
    /// The kernel's name and version.
    pub kernel: String,
}

impl Machine {
    /// This one, as far as it says.
    pub fn here() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpu = text("/proc/cpuinfo");
        let processor = field(&cpu, "model name").unwrap_or(std::env::consts::ARCH);
        let memory = text("/proc/meminfo");
        let kibibytes =
            field(&memory, "MemTotal").and_then(|it| it.split(' ').next()?.parse().ok());
        let version = text("/proc/sys/kernel/osrelease");
        Self {
            processor: processor.to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kibibytes.unwrap_or(0_u64) * 1024,
            kernel: format!("{} {}", std::env::consts::OS, version.trim()).trim().to_owned(),
        }
    }

    /// For scripts.
    pub fn to_json(&self) -> Value {
        json!({
            "processor": self.processor,
            "cores": self.cores,
            "memory_bytes": self.memory_bytes,
            "kernel": self.kernel,
        })
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {} threads", self.processor, self.cores)?;
        if self.memory_bytes > 0 {
            write!(f, ", {:.0} GiB", self.memory_bytes as f64 / (1_u64 << 30) as f64)?;
        }
        write!(f, ", {}", self.kernel)
    }
}

/// The value of `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_name() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nMemTotal:       1024 kB\n";
        assert_eq!(field(text, "model name"), Some("Some CPU @ 2 GHz"));
        assert_eq!(field(text, "MemTotal"), Some("1024 kB"));
        assert_eq!(field(text, "flags"), None);
        assert!(Machine::here().cores > 0);
    }
}
