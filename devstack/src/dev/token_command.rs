//! `cargo dev token`: a token for the running service.

use crate::dev::dev_lock;
use crate::dev::error::DevError;
use crate::dev::issuer_client::IssuerClient;

/// Prints a token of the issuer that `cargo dev --auth` started. It is valid for an hour.
#[derive(clap::Args)]
pub(crate) struct TokenCommand {
    /// The subject: the person or the program that the token is for.
    #[arg(long, default_value = "developer")]
    subject: String,
    /// The scopes, with blanks between them.
    #[arg(long, default_value = "")]
    scope: String,
}

impl TokenCommand {
    pub(crate) async fn run(self) -> Result<(), DevError> {
        let state = dev_lock::find_running()?;
        let Some(issuer) = IssuerClient::new(state.ready()?) else {
            return Err(DevError::new("the service needs no token: it was started without `--auth`"));
        };
        println!("{}", issuer.token(&self.subject, &self.scope).await?);
        Ok(())
    }
}
