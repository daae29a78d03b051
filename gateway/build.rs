//! Takes the parts of Swagger UI that the page at `/docs` needs out of the archive that its crate carries, so that the page works
//! without a network.

use std::{env, error::Error, fs, io, path::PathBuf};

use zip::ZipArchive;

const FILES: [&str; 2] = ["swagger-ui.css", "swagger-ui-bundle.js"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    let output = PathBuf::from(env::var("OUT_DIR")?);
    let mut archive = ZipArchive::new(io::Cursor::new(utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED))?;
    let mut missing = FILES.to_vec();
    for index in 0..archive.len() {
        let mut file = archive.by_index(index)?;
        // Everything is in a folder that is named after the version.
        let path = file.name()?.into_owned();
        let Some((_, name)) = path.split_once("/dist/") else { continue };
        if missing.contains(&name) {
            missing.retain(|wanted| *wanted != name);
            io::copy(&mut file, &mut fs::File::create(output.join(name))?)?;
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(format!("the archive lacks {missing:?}").into()) }
}
