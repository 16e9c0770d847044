//! `interlock completion`

use anyhow::Result;
use clap::CommandFactory as _;
use clap_complete::Shell;

/// Which shell.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The shell to complete in.
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut command = crate::Arguments::command();
    clap_complete::generate(arguments.shell, &mut command, "interlock", &mut std::io::stdout());
    Ok(())
}
