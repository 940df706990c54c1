//! `#[derive(SecretSet)]`.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::{Data, DeriveInput, Error, Field, Fields, Ident, ext::IdentExt, spanned::Spanned};

/// The names of the framework's own credentials: `vestibule::secrets::RESERVED`.
const RESERVED: [&str; 4] = ["migrator", "server_tls", "client_ca", "otlp"];

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream, Error> {
    let fields = fields(input)?;
    let set = &input.ident;
    let idents: Vec<_> = fields.iter().filter_map(|field| field.ident.as_ref()).collect();
    let names: Vec<_> = idents.iter().map(|ident| ident.unraw().to_string()).collect();
    let specs = fields.iter().zip(&names).map(|(field, name)| {
        let ty = &field.ty;
        quote_spanned!(ty.span()=> <#ty as ::vestibule::secrets::CredentialField>::spec(#name))
    });
    // A field may have this name, too.
    let resolver = Ident::new("resolver", Span::mixed_site());
    let resolved = fields.iter().zip(&names).map(|(field, name)| {
        let ty = &field.ty;
        quote_spanned!(ty.span()=> <#ty as ::vestibule::secrets::CredentialField>::resolve(#name, #resolver))
    });
    Ok(quote! {
        impl ::vestibule::secrets::SecretSet for #set {
            fn specs() -> ::std::vec::Vec<::vestibule::secrets::CredentialSpec> {
                ::std::vec![#(#specs),*]
            }

            fn resolve(#resolver: &mut ::vestibule::secrets::Resolver<'_>) -> ::std::option::Option<Self> {
                // Resolves all before it returns, so that the resolver has every fault.
                #(let #idents = #resolved;)*
                ::std::option::Option::Some(Self { #(#idents: #idents?),* })
            }
        }
    })
}

/// Returns the fields of the struct, and refuses those whose names cannot be used.
fn fields(input: &DeriveInput) -> Result<Vec<&Field>, Error> {
    let Data::Struct(data) = &input.data else {
        return Err(Error::new_spanned(&input.ident, "SecretSet is derived for structs: one field per credential"));
    };
    let fields: Vec<_> = match &data.fields {
        Fields::Named(named) => named.named.iter().collect(),
        Fields::Unit => Vec::new(),
        Fields::Unnamed(unnamed) => {
            return Err(Error::new_spanned(unnamed, "a credential needs a name: use a struct with named fields"));
        }
    };
    for ident in fields.iter().filter_map(|field| field.ident.as_ref()) {
        if !ident.unraw().to_string().is_ascii() {
            return Err(Error::new_spanned(ident, "the name is part of an id at the manager: use ASCII letters"));
        }
        if RESERVED.iter().any(|reserved| ident.unraw() == reserved) {
            return Err(Error::new_spanned(ident, "this name is reserved for one of the framework's own credentials"));
        }
    }
    Ok(fields)
}
