//! OpenAPI: the document that describes the routes of a service, and its page for people.

pub(crate) mod document;
pub(crate) mod page;

mod example;

pub use utoipa_axum::{
    router::{OpenApiRouter, UtoipaMethodRouterExt},
    routes,
};
