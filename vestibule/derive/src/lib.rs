//! The derive macros `#[derive(SecretSet)]` and `#[derive(ConfigSection)]`.

mod config_section;
mod secret_set;

use proc_macro::TokenStream;
use syn::{DeriveInput, Error, parse_macro_input};

/// Implements `SecretSet` for a struct whose fields are `Credential<K>` or `Option<Credential<K>>`.
#[proc_macro_derive(SecretSet)]
pub fn secret_set(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    secret_set::expand(&input).unwrap_or_else(Error::into_compile_error).into()
}

/// Implements `ConfigSection` for a struct of settings. The first sentence of a field's comment describes the setting.
#[proc_macro_derive(ConfigSection, attributes(setting))]
pub fn config_section(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    config_section::expand(&input).unwrap_or_else(Error::into_compile_error).into()
}
