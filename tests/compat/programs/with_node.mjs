// transformers.js in Node, on onnxruntime-node's CPU provider. The package is in the folder that NODE_FOLDER names.
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname } from 'node:path';

import { answers } from './transformersjs.mjs';

const transformers = createRequire(`${process.env.NODE_FOLDER}/`)('@huggingface/transformers');
const [jobFile, answersFile] = process.argv.slice(2);
const job = JSON.parse(readFileSync(jobFile, 'utf8'));
transformers.env.localModelPath = `${dirname(job.bundle)}/`;
transformers.env.allowRemoteModels = false;
// As our runtime has it: products of 8-bit integers that overflow on no CPU. The entries are named `session.…`.
const session = Object.fromEntries(Object.entries(job.session_entries).map(([name, value]) => [name.split('.')[1], value]));
const options = { device: 'cpu', session_options: { extra: { session } } };
writeFileSync(answersFile, JSON.stringify(await answers(transformers, job, basename(job.bundle), options)));
